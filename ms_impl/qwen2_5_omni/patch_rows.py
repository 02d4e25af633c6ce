"""Frames of patches in rows of one length, so that attention is never over more patches than a row has."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

Array = np.ndarray
Grid = tuple[int, int, int]

ROUND = 64  # row lengths are multiples of it


def row_length(grids: Iterable[Grid]) -> int:
    """Patches of a row that holds the largest frame, up to a multiple of ``ROUND``."""
    largest = max((rows * columns for _, rows, columns in grids), default=1)
    return -(-largest // ROUND) * ROUND


def places(frames: Iterable[int], length: int) -> list[tuple[int, int]]:
    """Row and first patch of each frame, given its patches: each in the first row with room for it."""
    used: list[int] = []
    found = []
    first = 0  # rows before it are full
    for patches in frames:
        row = next((row for row in range(first, len(used)) if used[row] + patches <= length), len(used))
        if row == len(used):
            used.append(0)
        found.append((row, used[row]))
        used[row] += patches
        while first < len(used) and used[first] == length:
            first += 1
    return found


def rows_needed(grids: Sequence[Grid], length: int) -> int:
    """Rows that the frames of a conversation take."""
    return max((row + 1 for row, _ in places(_frames(grids), length)), default=0)


def fill_frame(grid: Grid, row: int, start: int, window: int, out: dict[str, Array]) -> None:
    """Segments and places of a frame that begins at patch ``start`` of ``row``.

    ``out`` has ``patch_segments`` and ``patch_places`` [R, L, 2]. A window is ``window``² patches. Frame and window
    numbers count up within a row, from 1.
    """
    _, rows, columns = grid
    segments, where = out["patch_segments"][row], out["patch_places"][row]
    cells = unit_order(rows, columns)
    across = -(-columns // window)
    windows = cells[:, 0] // window * across + cells[:, 1] // window
    before = segments[:start].max(axis=0, initial=0)
    part = slice(start, start + len(cells))
    segments[part, 0] = before[0] + 1
    segments[part, 1] = before[1] + 1 + windows
    where[part] = cells


def unit_order(rows: int, columns: int) -> Array:
    """Row and column of each patch of a frame [rows · columns, 2]: 2 × 2 unit after unit."""
    cells = np.stack(np.meshgrid(np.arange(rows), np.arange(columns), indexing="ij"), -1)
    return cells.reshape(rows // 2, 2, columns // 2, 2, 2).transpose(0, 2, 1, 3, 4).reshape(-1, 2)


def _frames(grids: Sequence[Grid]) -> Iterator[int]:
    return (rows * columns for frames, rows, columns in grids for _ in range(frames))
