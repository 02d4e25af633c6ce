"""How an image or a frame becomes patches: its size, its pixel values, and which frames of a video. numpy only."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ms_impl.errors import InputError, quote
from ms_impl.io.json_files import read_json
from ms_impl.ovis2_5.config import VitConfig
from ms_impl.ovis2_5.patches import Grid, patchify

PREPROCESSOR_NAME = "preprocessor_config.json"
MOST_ASPECT = 200  # of a side to the other
_MAY_BE_NEGATIVE = {"low": -(1 << 30)}  # for a YAML
BICUBIC = 3  # Pillow's number, and what the original takes where the file does not say


@dataclass(frozen=True)
class PixelRule:
    """How levels become pixel values, and by which of Pillow's filters images are resized."""

    mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    std: tuple[float, ...] = (0.5, 0.5, 0.5)
    rescale_factor: float = 1 / 255
    resample: int = BICUBIC

    @classmethod
    def from_directory(cls, directory: str | os.PathLike) -> "PixelRule":
        """Of a checkpoint's preprocessor_config.json; the original's own rule where there is none.

        Raises InputError naming the file and the key for a value that is no such thing.
        """
        path = Path(directory, PREPROCESSOR_NAME)
        if not path.is_file():
            return cls()
        raw = read_json(path)
        default = cls()
        found = {
            "mean": _channels(raw.get("image_mean", default.mean)),
            "std": _channels(raw.get("image_std", default.std)),
            "rescale_factor": raw.get("rescale_factor", default.rescale_factor),
            "resample": raw.get("resample", default.resample),
        }
        rules = {
            "image_mean must be three numbers": found["mean"] is not None,
            "image_std must be three numbers above 0": found["std"] is not None and min(found["std"]) > 0,
            "rescale_factor must be a number above 0": _is_number(found["rescale_factor"])
            and found["rescale_factor"] > 0,
            f"resample must be one of {[filter.value for filter in Image.Resampling]}": type(found["resample"]) is int
            and found["resample"] in [filter.value for filter in Image.Resampling],
            "do_resize, do_rescale and do_normalize must be true": all(
                raw.get(key) in (None, True) for key in ("do_resize", "do_rescale", "do_normalize")
            ),
        }
        if broken := [rule for rule, holds in rules.items() if not holds]:
            raise InputError(f"{path}: {'; '.join(broken)}")
        return cls(**found)

    def pixels(self, image: Image.Image) -> np.ndarray:
        """An RGB image → float32 [3, height, width]."""
        levels = np.asarray(image).transpose(2, 0, 1)
        every_level = (np.arange(256) * self.rescale_factor).astype(np.float32)
        mean, std = (np.array(values, np.float32)[:, None, None] for values in (self.mean, self.std))
        return (every_level[levels] - mean) / std


@dataclass(frozen=True)
class PixelLimits:
    """How many pixels a visual may have, by what its conversation shows.

    A negative number is that of a single image: the same minimum, and the maximum divided by the visuals or frames.
    ``min_pixels`` and ``max_pixels`` count before the others, whatever is shown; 0: they are not given.
    """

    single_image_min_pixels: int = 448 * 448
    single_image_max_pixels: int = 1792 * 1792
    multiple_image_min_pixels: int = field(default=448 * 448, metadata=_MAY_BE_NEGATIVE)
    multiple_image_max_pixels: int = field(default=896 * 896, metadata=_MAY_BE_NEGATIVE)
    video_min_pixels: int = field(default=448 * 448, metadata=_MAY_BE_NEGATIVE)
    video_max_pixels: int = field(default=896 * 896, metadata=_MAY_BE_NEGATIVE)
    min_pixels: int = 0
    max_pixels: int = 0

    def of_images(self, count: int) -> tuple[int, int]:
        """The least and the most pixels of each of so many images; (0, 0) of none."""
        if count == 0:
            return 0, 0
        if count == 1:
            return self._over_all(self.single_image_min_pixels, self.single_image_max_pixels)
        return self._limits(self.multiple_image_min_pixels, self.multiple_image_max_pixels, count)

    def of_video(self, frames: int) -> tuple[int, int]:
        """The least and the most pixels of each frame of a video of so many."""
        return self._limits(self.video_min_pixels, self.video_max_pixels, frames)

    def _limits(self, least: int, most: int, count: int) -> tuple[int, int]:
        least = self.single_image_min_pixels if least < 0 else least
        most = max(least, self.single_image_max_pixels // count) if most < 0 else most
        return self._over_all(least, most)

    def _over_all(self, least: int, most: int) -> tuple[int, int]:
        """The limits, ``min_pixels`` and ``max_pixels`` before them; one that is given alone moves the other."""
        if self.min_pixels:
            least, most = self.min_pixels, max(most, self.min_pixels)
        if self.max_pixels:
            least, most = min(least, self.max_pixels), self.max_pixels
        return least, most


def released_limits(directory: str | os.PathLike) -> dict[str, int]:
    """The limits that ``min_pixels`` and ``max_pixels`` of a checkpoint's preprocessor_config.json set.

    They are for images and for frames alike. The released models say neither. Raises InputError naming the file and the
    key.
    """
    path = Path(directory, PREPROCESSOR_NAME)
    raw = read_json(path) if path.is_file() else {}
    limits: dict[str, int] = {}
    for key in ("min_pixels", "max_pixels"):
        if (value := raw.get(key)) is None:
            continue
        if type(value) is not int or value < 1:
            raise InputError(f"{path}: {key} must be a whole number, 1 or more, not {quote(value)}")
        limits |= {f"{kind}_{key}": value for kind in ("single_image", "multiple_image", "video")}
    return limits


def smart_resize(height: int, width: int, factor: int, min_pixels: int, max_pixels: int) -> tuple[int, int]:
    """The size at which the model sees an image: multiples of ``factor``, within the limits, near its aspect.

    As in the original: a side below ``factor`` is enlarged first, the aspect is clamped only where none is, and an
    extreme aspect may give a side of 0.
    """
    if min(height, width) < factor:
        if height < width:
            height, width = factor, round(width * factor / height)
        else:
            height, width = round(height * factor / width), factor
    elif max(height, width) / min(height, width) > MOST_ASPECT:
        height, width = min(height, MOST_ASPECT * width), min(width, MOST_ASPECT * height)
    rows, columns = round(height / factor) * factor, round(width / factor) * factor
    if rows * columns > max_pixels:
        shrink = math.sqrt(height * width / max_pixels)
        rows = math.floor(height / shrink / factor) * factor
        columns = math.floor(width / shrink / factor) * factor
    elif rows * columns < min_pixels:
        stretch = math.sqrt(min_pixels / (height * width))
        rows = math.ceil(height * stretch / factor) * factor
        columns = math.ceil(width * stretch / factor) * factor
    return rows, columns


def patch_grid(size: tuple[int, int], frames: int, limits: tuple[int, int], config: VitConfig) -> Grid:
    """Frames, rows and columns of patches of an image or a video whose first frame has ``size`` (width, height).

    Raises InputError for an aspect of which no patch would be left.
    """
    factor = config.patch_size * config.hidden_stride
    height, width = smart_resize(size[1], size[0], factor, *limits)
    if not height or not width:
        raise InputError(
            f"{size[0]}×{size[1]} pixels are too narrow: at {limits[1]:,} pixels a side would have none; crop it"
        )
    return frames, height // config.patch_size, width // config.patch_size


def to_patches(images: Sequence[Image.Image], grid: Grid, rule: PixelRule, config: VitConfig) -> np.ndarray:
    """RGB images or frames, resized to the grid → patches float32 [N, channels · patch²]."""
    size = grid[2] * config.patch_size, grid[1] * config.patch_size
    resized = (image if image.size == size else image.resize(size, rule.resample) for image in images)
    return patchify(np.stack([rule.pixels(image) for image in resized]), config)


def chosen_frames(total: int, least: int, most: int) -> list[int]:
    """Which of ``total`` frames are shown: the middles of equal spans, at least ``least``, at most ``most`` of them."""
    count = min(max(total, least), most)
    edges = np.linspace(0, total, count + 1).round().astype(int)
    return np.minimum((edges[:-1] + edges[1:]) // 2, total - 1).tolist()


def evenly(total: int, count: int) -> list[int]:
    """The frames of an answer's video: the first of each of ``count`` equal spans."""
    return [number * total // count for number in range(count)]


def _channels(values: Any) -> tuple[float, ...] | None:
    if isinstance(values, list | tuple) and len(values) == 3 and all(map(_is_number, values)):
        return tuple(values)
    return None


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)
