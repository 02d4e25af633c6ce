"""What the vision tower is told of patches beside their pixels, and how frames are laid out in rows. numpy only.

A grid is (frames, rows, columns) of patches. Patches of a frame stand in blocks of stride × stride: a block is a visual
token. Frames stand whole in rows of patches, one after another, as long as they fit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from ms_impl.cells.bicubic import bicubic_matrix
from ms_impl.ovis2_5.config import VitConfig

MULTIPLE = 64  # of patches: a row's length
_WINDOWS = 1 << 10  # more than a frame has along a side

Grid = tuple[int, int, int]
Arrays = Mapping[str, np.ndarray]


class Visual(NamedTuple):
    """An image or a video as patches.

    Args:
        grid: frames, rows, columns.
        patches: float32 [N, channels · patch²], frame after frame.
        columns: int32 [N / stride²], the column of each visual token in the row of tokens.
    """

    grid: Grid
    patches: np.ndarray
    columns: np.ndarray


def patchify(frames: np.ndarray, config: VitConfig) -> np.ndarray:
    """Pixel values [frames, channels, height, width] → patches [N, channels · patch²]."""
    count, channels, height, width = frames.shape
    patch, stride = config.patch_size, config.hidden_stride
    side = patch * stride
    blocks = frames.reshape(count, channels, height // side, stride, patch, width // side, stride, patch)
    return np.ascontiguousarray(blocks.transpose(0, 2, 5, 3, 6, 1, 4, 7)).reshape(-1, channels * patch**2)


@lru_cache(64)
def frame_places(rows: int, columns: int, stride: int) -> np.ndarray:
    """Row and column of each patch of a frame, int32 [rows · columns, 2], block after block."""
    grid = np.stack(np.meshgrid(np.arange(rows), np.arange(columns), indexing="ij"), -1)
    blocks = grid.reshape(rows // stride, stride, columns // stride, stride, 2).transpose(0, 2, 1, 3, 4)
    return np.ascontiguousarray(blocks).reshape(-1, 2).astype(np.int32)


@lru_cache(64)
def frame_taps(rows: int, columns: int, side: int, stride: int) -> np.ndarray:
    """What each row and each column of the learned positions counts for each patch: float32 [rows · columns, 2, side].

    The rows of two bicubic matrices: the position of a patch is Σ a_i·b_j·P_ij.
    """
    row, column = frame_places(rows, columns, stride).T
    return np.stack((bicubic_matrix(rows, side)[row], bicubic_matrix(columns, side)[column]), 1)


def frame_windows(rows: int, columns: int, config: VitConfig) -> np.ndarray:
    """A number for the window of each patch of a frame: int32 [rows · columns], from 0 on."""
    row, column = frame_places(rows, columns, config.hidden_stride).T // config.window_patches
    return row * _WINDOWS + column


def row_length(patches: int) -> int:
    """The length of the rows for a run whose largest frame has so many patches."""
    return -(-patches // MULTIPLE) * MULTIPLE


def lay_out(frames: Sequence[int], length: int) -> list[tuple[int, int]]:
    """The row of each frame and its first place in it, for frames of so many patches and rows of ``length``.

    A frame stands in the last row begun, or begins the next: so what two samples take together is never more than the
    sum of what each takes alone.
    """
    places, row, end = [], 0, 0
    for patches in frames:
        if end + patches > length:
            row, end = row + 1, 0
        places.append((row, end))
        end += patches
    return places


def rows_needed(grids: Sequence[Grid], length: int) -> int:
    """How many rows of ``length`` patches the frames of these visuals take."""
    frames = [rows * columns for count, rows, columns in grids for _ in range(count)]
    return lay_out(frames, length)[-1][0] + 1 if frames else 0


def fill_rows(visuals: Sequence[Visual], out: Arrays, config: VitConfig) -> None:
    """Write visuals into the arrays of one row of tokens, which hold padding: patches [R, L, …] and those beside it."""
    unit, length = config.hidden_stride**2, out["patches"].shape[1]
    frames = [visual.grid[1] * visual.grid[2] for visual in visuals for _ in range(visual.grid[0])]
    places = iter(enumerate(lay_out(frames, length), start=1))
    for (count, rows, columns), patches, where in visuals:
        size = rows * columns
        for frame in range(count):
            number, (row, first) = next(places)
            put = (row, slice(first, first + size))
            out["patches"][put] = patches[frame * size : (frame + 1) * size]
            out["patch_segments"][put] = np.stack(
                (np.full(size, number), number * _WINDOWS**2 + frame_windows(rows, columns, config)), 1
            )
            out["patch_places"][put] = frame_places(rows, columns, config.hidden_stride)
            out["patch_taps"][put] = frame_taps(rows, columns, config.position_side, config.hidden_stride)
            units = slice(frame * size // unit, (frame + 1) * size // unit)
            out["patch_columns"][row, first // unit : (first + size) // unit] = where[units]
