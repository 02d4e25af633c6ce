"""Frames of videos resized, and cut into patches, in one call each; every bit equals that of the numpy code."""

from __future__ import annotations

import ctypes
from functools import cache
from typing import NamedTuple

import numpy as np

from ms_impl.kernels.build import library

KERNEL = "frames"
_Levels = np.ctypeslib.ndpointer(np.uint8, flags="C")
_Inputs = np.ctypeslib.ndpointer(np.int64, 2, flags="C")
_Reals = np.ctypeslib.ndpointer(np.float32, flags="C")
_SIZE = ctypes.c_int64

Taps = tuple[np.ndarray, np.ndarray]  # inputs int64 and weights float32 [outputs, n]
_NONE: Taps = np.empty((0, 0), np.int64), np.empty((0, 0), np.float32)


class FrameKernels(NamedTuple):
    """The compiled functions."""

    resize_frame: ctypes._CFuncPtr
    cut_patches: ctypes._CFuncPtr

    def resize(self, image: np.ndarray, height: int, width: int, down: Taps | None, across: Taps | None) -> np.ndarray:
        """uint8 [h, w, 3] → uint8 [height, width, 3]; an axis without taps keeps its size."""
        out = np.empty((height, width, 3), np.uint8)
        (rows, row_weights), (columns, column_weights) = down or _NONE, across or _NONE
        if not self.resize_frame(
            np.ascontiguousarray(image), image.shape[1], rows, row_weights, height, rows.shape[1], columns,
            column_weights, width, columns.shape[1], out,
        ):  # fmt: skip
            raise MemoryError(f"not enough memory to resize a frame of {image.shape[1]}×{image.shape[0]} pixels")
        return out

    def patches(self, pair: np.ndarray, table: np.ndarray, out: np.ndarray) -> None:
        """uint8 [2, height, width, 3] → float32 [patches, 1176]; levels by ``table`` float32 [3, 256]."""
        self.cut_patches(np.ascontiguousarray(pair), *pair.shape[1:3], np.ascontiguousarray(table), out)


@cache
def frame_kernels() -> FrameKernels | None:
    """The compiled kernels, which run without the GIL; None without a compiler."""
    path = library(KERNEL)
    if path is None:
        return None
    functions = ctypes.CDLL(str(path))
    resize, cut = functions.resize_frame, functions.cut_patches
    resize.argtypes = (_Levels, _SIZE, _Inputs, _Reals, _SIZE, _SIZE, _Inputs, _Reals, _SIZE, _SIZE, _Levels)
    resize.restype = ctypes.c_bool
    cut.argtypes, cut.restype = (_Levels, _SIZE, _SIZE, _Reals, _Reals), None
    return FrameKernels(resize, cut)
