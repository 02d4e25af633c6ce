"""Image files → pixel values, safely: local files only, nothing decoded before its size is known."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from ms_impl.errors import InputError
from ms_impl.kernels.resize import resize_kernel

# CLIP's normalisation, by channel R, G, B (``visual.py`` of the original).
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
MAX_PIXELS = 178_956_970  # Pillow's own hard limit at its default setting: 0.7 GB once decoded
_LEVELS = 256  # of a channel of 8 bits
# Raster formats that Pillow decodes itself. Others (EPS) would start programs at a data set's word.
_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")


def resolve_path(path: str, dataset_dir: str | os.PathLike | None = None, allow_outside: bool = False) -> Path:
    """The file an image tag means: ``dataset_dir`` + path, or an absolute path by itself.

    Raises InputError for a URL: nothing is fetched because data names it. Also, unless ``allow_outside``, for a path
    that leaves ``dataset_dir`` through ``..``; without a folder (None) there is none to leave. Symbolic links are
    followed wherever they lead: whoever owns the folder has put them there, while ``..`` comes with the data. A path
    that stays inside has its ``..`` taken out, so that none of them goes up from where a link leads. Prompts are in
    NFC; a file whose name is in NFD, as macOS writes them, is found all the same.
    """
    if path.lower().startswith(("http://", "https://")):
        raise InputError(f"image '{path}' is a URL; download it yourself and give the path of the file")
    if dataset_dir is None or allow_outside or os.path.isabs(path):
        return _as_stored(dataset_dir or "", path)
    inside = os.path.normpath(path)
    if inside.split(os.sep)[0] == os.pardir:
        raise InputError(
            f"image '{path}' lies outside dataset_dir '{dataset_dir}'; move it, or set allow_outside_dataset_dir: True"
        )
    return _as_stored(dataset_dir, inside)


def _as_stored(directory: str | os.PathLike, path: str) -> Path:
    file = Path(directory, path)
    if path.isascii() or os.path.exists(file):
        return file
    decomposed = Path(directory, unicodedata.normalize("NFD", path))
    return decomposed if os.path.exists(decomposed) else file


def load_pixels(
    path: str | os.PathLike,
    image_size: int,
    mean: Sequence[float] = CLIP_MEAN,
    std: Sequence[float] = CLIP_STD,
    out: np.ndarray | None = None,
) -> np.ndarray:
    """Pixel values float32 [3, ``image_size``, ``image_size``] of a file, as ``to_pixels`` has them.

    The image is resized as Pillow does it (bicubic; the aspect ratio is not kept). The first frame of an animation
    counts; transparency and EXIF orientation are ignored, as in the original. ``out`` takes the values if given.
    Raises InputError as ``read_image`` does.
    """
    image = read_image(path)
    out = np.empty((3, image_size, image_size), np.float32) if out is None else out
    resize = resize_kernel()
    if resize is None:
        return to_pixels(image.resize((image_size, image_size), Image.Resampling.BICUBIC), mean, std, out)
    every_level = np.arange(_LEVELS, dtype=np.uint8).reshape(1, _LEVELS, 1).repeat(3, axis=2)
    resize(image, to_pixels(every_level, mean, std)[:, 0], out)
    return out


def read_image(path: str | os.PathLike) -> Image.Image:
    """Read a file as RGB at its own size.

    Raises InputError naming the file when it is missing, not an image, damaged, or has more than MAX_PIXELS.
    """
    if not os.path.isfile(path):
        raise InputError(f"image '{path}' {'is not a file' if os.path.exists(path) else 'does not exist'}")
    try:
        with Image.open(path, formats=_FORMATS) as image:
            _check_size(image.size, path)
            image.load()
            return image if image.mode == "RGB" else image.convert("RGB")  # which would copy an RGB image
    except InputError:
        raise
    except Image.UnidentifiedImageError as error:
        raise InputError(f"image '{path}' is not an image file (known: {', '.join(_FORMATS)})") from error
    except Image.DecompressionBombError as error:
        raise InputError(f"image '{path}' has more than {MAX_PIXELS:,} pixels; make it smaller") from error
    except Exception as error:  # Pillow's decoders raise many kinds for one cause: the file is damaged.
        raise InputError(f"image '{path}' cannot be decoded: {error}") from error


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


def _check_size(size: tuple[int, int], path: str | os.PathLike) -> None:
    width, height = size
    if width * height > MAX_PIXELS:
        raise InputError(f"image '{path}' has {width}×{height} pixels, more than {MAX_PIXELS:,}; make it smaller")
