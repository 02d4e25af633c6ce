"""Image files → pixel values, safely: local files only, nothing decoded before its cost is known."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from ms_impl.data import image_cost
from ms_impl.data.sample import Placed, Sample
from ms_impl.errors import InputError
from ms_impl.kernels.resize import Resize, resize_kernel

# CLIP's normalisation, by channel R, G, B (``visual.py`` of the original).
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
_LEVELS = 256  # of a channel of 8 bits

_URL = re.compile(r"[a-z][a-z0-9+.-]+://|data:image/", re.IGNORECASE)


def resolve_path(
    path: str, dataset_dir: str | os.PathLike | None = None, allow_outside: bool = False, what: str = "image"
) -> Path:
    """The file that a record means: ``dataset_dir`` + path, or an absolute path by itself. ``what`` it is, for errors.

    Raises InputError for a URL: nothing is fetched because data names it. Also, unless ``allow_outside``, for a path
    that leaves ``dataset_dir`` through ``..``; without a folder (None) there is none to leave. Symbolic links are
    followed wherever they lead: whoever owns the folder has put them there, while ``..`` comes with the data. A path
    that stays inside has its ``..`` taken out, so that none of them goes up from where a link leads. Prompts are in
    NFC; a file whose name is in NFD, as macOS writes them, is found all the same.
    """
    if _URL.match(path):
        raise InputError(f"{what} '{path}' is a URL; download it yourself and give the path of the file")
    if dataset_dir is None or allow_outside or os.path.isabs(path):
        return _as_stored(dataset_dir or "", path)
    inside = os.path.normpath(path)
    if inside.split(os.sep)[0] == os.pardir:
        raise InputError(
            f"{what} '{path}' lies outside dataset_dir '{dataset_dir}'; move it, or set allow_outside_dataset_dir: True"
        )
    return _as_stored(dataset_dir, inside)


def in_directory(samples: Sequence[Sample], dataset_dir: str | os.PathLike | None) -> list[Sample]:
    """Samples whose media have ``dataset_dir`` before relative paths. Raises InputError as ``resolve_path``."""
    if dataset_dir is None:
        return list(samples)
    return [replace(sample, media=tuple(_placed_in(dataset_dir, each) for each in sample.media)) for sample in samples]


def _placed_in(directory: str | os.PathLike, medium: Placed) -> Placed:
    source = medium.source
    return replace(medium, source=str(resolve_path(source, directory))) if isinstance(source, str) else medium


def _as_stored(directory: str | os.PathLike, path: str) -> Path:
    file = Path(directory, path)
    if path.isascii() or os.path.exists(file):
        return file
    decomposed = Path(directory, unicodedata.normalize("NFD", path))
    return decomposed if os.path.exists(decomposed) else file


def load_pixels(
    path: str | os.PathLike,
    side: int,
    mean: Sequence[float] = CLIP_MEAN,
    std: Sequence[float] = CLIP_STD,
    out: np.ndarray | None = None,
) -> np.ndarray:
    """Pixel values float32 [3, ``side``, ``side``] of a file, as ``to_pixels`` has them.

    The image is resized as Pillow does it (bicubic; the aspect ratio is not kept). The first frame of an animation
    counts; transparency and EXIF orientation are ignored, as in the original. ``out`` takes the values if given.
    At its peak, memory is what decoding may take (``image_cost.MAX_BYTES``): resizing needs less beside the image.
    Raises InputError as ``read_image`` does.
    """
    resize = resize_kernel()  # before the image is made: it says how Pillow lays images out
    image = read_image(path)
    try:
        return _resized(resize, image, side, mean, std, out)
    except MemoryError as error:
        width, height = image.size
        raise InputError(f"image '{path}' of {width}×{height} pixels needs more memory than there is") from error


def _resized(
    resize: Resize | None,
    image: Image.Image,
    side: int,
    mean: Sequence[float],
    std: Sequence[float],
    out: np.ndarray | None,
) -> np.ndarray:
    out = np.empty((3, side, side), np.float32) if out is None else out
    if resize is None:
        return to_pixels(image.resize((side, side), Image.Resampling.BICUBIC), mean, std, out)
    every_level = np.arange(_LEVELS, dtype=np.uint8).reshape(1, _LEVELS, 1).repeat(3, axis=2)
    resize(image, to_pixels(every_level, mean, std)[:, 0], out)
    return out


def read_image(path: str | os.PathLike) -> Image.Image:
    """Read a file as RGB at its own size.

    Raises InputError naming the file when it is missing, not an image, damaged, or over a limit of ``image_cost``.
    """
    with image_cost.opened(path) as image:
        image.load()
        return image if image.mode == "RGB" else image.convert("RGB")  # which would copy an RGB image


def to_pixels(
    image: Image.Image | np.ndarray,
    mean: Sequence[float] = CLIP_MEAN,
    std: Sequence[float] = CLIP_STD,
    out: np.ndarray | None = None,
) -> np.ndarray:
    """Pixel values [3, height, width], float32: levels / 255, minus mean, over standard deviation, by channel.

    The levels are those of an image in RGB, or uint8 [height, width, 3]. The values go to ``out`` if given: every
    further array of that size costs as much as the arithmetic.
    """
    levels = np.asarray(image).transpose(2, 0, 1)
    pixels = np.empty(levels.shape, np.float32) if out is None else out
    mean_column, std_column = (np.asarray(values, dtype=np.float32)[:, None, None] for values in (mean, std))
    pixels[:] = levels
    pixels /= np.float32(255)
    pixels -= mean_column
    pixels /= std_column
    return pixels
