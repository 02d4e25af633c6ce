"""Sizes, frames and patches of images and videos, as qwen_omni_utils 0.0.8 and Hugging Face's processor have them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ms_impl.errors import InputError
from ms_impl.kernels.frames import frame_kernels

Array = np.ndarray
Size = tuple[int, int]  # height, width

FACTOR = 28  # sides are multiples of it: two patches
PATCH = 14
PATCH_FEATURES = 3 * 2 * PATCH * PATCH  # channels, frames, rows, columns
FRAMES_PER_GRID = 2
MAX_RATIO = 200  # of the longer side to the shorter
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
_LEVELS = np.arange(256)


@dataclass(frozen=True)
class Limits:
    """How large images and videos may be, and how many frames are taken.

    The names are those of the environment variables and module constants of qwen_omni_utils and ms-swift. ``nframes``
    0: as many as ``fps`` asks for, within the other two. ``resized_height`` and ``resized_width`` 0: by the pixels.
    """

    min_pixels: int = 4 * FACTOR**2
    max_pixels: int = 16384 * FACTOR**2
    video_min_pixels: int = 128 * FACTOR**2
    video_max_pixels: int = 768 * FACTOR**2
    video_total_pixels: int = 115_200 * FACTOR**2
    fps: float = 2.0
    fps_min_frames: int = 4
    fps_max_frames: int = 768
    nframes: int = 0
    resized_height: int = 0
    resized_width: int = 0


def smart_resize(height: int, width: int, min_pixels: int, max_pixels: float) -> Size:
    """The size nearest to height and width whose sides are multiples of 28 and whose pixels are within the limits.

    Raises InputError for a side of more than 200 times the other.
    """
    if max(height, width) > MAX_RATIO * min(height, width):
        raise InputError(f"{width}×{height} pixels: one side is more than {MAX_RATIO} times the other; cut it")
    rows, columns = (max(FACTOR, round(side / FACTOR) * FACTOR) for side in (height, width))
    if rows * columns > max_pixels:
        shrink = math.sqrt(height * width / max_pixels)
        rows, columns = (max(FACTOR, math.floor(side / shrink / FACTOR) * FACTOR) for side in (height, width))
    elif rows * columns < min_pixels:
        grow = math.sqrt(min_pixels / (height * width))
        rows, columns = (math.ceil(side * grow / FACTOR) * FACTOR for side in (height, width))
    return rows, columns


def image_size(height: int, width: int, limits: Limits) -> Size:
    """The size that a still is resized to."""
    if limits.resized_height and limits.resized_width:
        height, width, limits = limits.resized_height, limits.resized_width, Limits()
    return smart_resize(height, width, limits.min_pixels, limits.max_pixels)


def video_size(height: int, width: int, frames: int, limits: Limits, asked_pixels: int | None = None) -> Size:
    """The size that the ``frames`` of a video are resized to.

    A frame's share of ``video_total_pixels`` limits it, but never to less than 1.05 times ``video_min_pixels``.
    ``asked_pixels``: a limit of this video alone, which may only lower it.
    """
    if limits.resized_height and limits.resized_width:
        stills = Limits()
        return smart_resize(limits.resized_height, limits.resized_width, stills.min_pixels, stills.max_pixels)
    share = limits.video_total_pixels / frames * FRAMES_PER_GRID
    most = max(min(limits.video_max_pixels, share), int(limits.video_min_pixels * 1.05))
    most = most if asked_pixels is None else min(asked_pixels, most)
    return smart_resize(height, width, limits.video_min_pixels, most)


def frame_count(total: int, rate: float, limits: Limits) -> int:
    """How many of a video's ``total`` frames are taken, at a ``rate`` in frames a second: an even number.

    Raises InputError where there are not as many.
    """
    if limits.nframes:
        frames = round(limits.nframes / FRAMES_PER_GRID) * FRAMES_PER_GRID
    else:
        least = math.ceil(limits.fps_min_frames / FRAMES_PER_GRID) * FRAMES_PER_GRID
        most = math.floor(min(limits.fps_max_frames, total) / FRAMES_PER_GRID) * FRAMES_PER_GRID
        wanted = min(max(total / rate * limits.fps, least), most, total)
        frames = math.floor(wanted / FRAMES_PER_GRID) * FRAMES_PER_GRID
    if not FRAMES_PER_GRID <= frames <= total:
        asked = f"{frames} were asked for (NFRAMES)" if limits.nframes else f"{FRAMES_PER_GRID} are the least"
        raise InputError(f"the video has {total} frame{'s'[: total != 1]}, {asked}; show a single one as an image")
    return frames


def spread_frames(total: int, frames: int) -> Array:
    """int64 [frames]: evenly spread over all, the first and the last included."""
    return np.linspace(np.float32(0), np.float32(total - 1), frames, dtype=np.float32).round().astype(np.int64)


def equal_parts(total: int, frames: int) -> Array:
    """int64 [frames]: the frame shown when each of ``frames`` equal parts of the video begins.

    Of a video with fewer frames some are taken more than once, so that time stays true.
    """
    return np.arange(frames, dtype=np.int64) * total // frames


def grid_of(frames: int, size: Size) -> tuple[int, int, int]:
    """Frames / 2, rows and columns of patches; an odd number of frames ends with the last one twice."""
    return -(-frames // FRAMES_PER_GRID), size[0] // PATCH, size[1] // PATCH


@dataclass(frozen=True)
class Normalisation:
    """Levels to values, by channel, as a table float32 [3, 256] for images and one for videos.

    Both compute (level / 255 − mean) / std, and differ in the last bit.
    """

    mean: Sequence[float] = CLIP_MEAN
    std: Sequence[float] = CLIP_STD

    def image_table(self) -> Array:
        scaled = (_LEVELS * (1 / 255)).astype(np.float32)
        mean, std = (np.array(values, np.float32)[:, None] for values in (self.mean, self.std))
        return (scaled - mean) / std

    def video_table(self) -> Array:
        mean, std = (np.array(values, np.float32)[:, None] * np.float32(255) for values in (self.mean, self.std))
        return (_LEVELS.astype(np.float32) - mean) / std


def patches_of(pair: Array, table: Array, out: Array) -> None:
    """The patches float32 [rows · columns, 1176] of one grid, uint8 [2, height, width, 3], written to ``out``.

    Patches of a 2 × 2 unit stand together; a patch is channels, frames, rows, columns.
    """
    if (kernels := frame_kernels()) is not None and out.flags.c_contiguous:
        kernels.patches(pair, table, out)
    else:
        _patches_in_numpy(pair, table, out)


def _patches_in_numpy(pair: Array, table: Array, out: Array) -> None:
    _, height, width, channels = pair.shape
    cells = pair.reshape(2, height // FACTOR, 2, PATCH, width // FACTOR, 2, PATCH, channels)
    values = out.reshape(height // FACTOR, width // FACTOR, 2, 2, channels, 2, PATCH, PATCH)
    for channel in range(channels):
        ordered = cells[..., channel].transpose(1, 4, 2, 5, 0, 3, 6)
        values[:, :, :, :, channel] = table[channel][ordered]


def grids_of(frames: Iterable[Array]) -> Iterator[Array]:
    """Pairs uint8 [2, height, width, 3] of frames; a last one without a partner stands twice."""
    waiting = None
    for frame in frames:
        if waiting is None:
            waiting = frame
        else:
            yield np.stack((waiting, frame))
            waiting = None
    if waiting is not None:
        yield np.stack((waiting, waiting))
