"""Bicubic interpolation as a matrix, because MindSpore's own bicubic operators differ from PyTorch's."""

from __future__ import annotations

import numpy as np


def bicubic_matrix(target: int, source: int, a: float = -0.75) -> np.ndarray:
    """The float32 matrix M [target, source] for which M·x is x resized by bicubic interpolation.

    Half-pixel centres (``align_corners=False``), taps beyond the border clamped to it, Keys' kernel with parameter
    ``a``: PyTorch's ``F.interpolate(mode="bicubic")`` has a = −0.75.
    """
    centre = (np.arange(target) + 0.5) * source / target - 0.5
    first = np.floor(centre).astype(int)
    matrix = np.zeros((target, source))
    for tap in range(-1, 3):
        weight = _keys_kernel(np.abs(centre - (first + tap)), a)
        np.add.at(matrix, (np.arange(target), np.clip(first + tap, 0, source - 1)), weight)
    return matrix.astype(np.float32)


def _keys_kernel(x: np.ndarray, a: float) -> np.ndarray:
    near = (a + 2) * x**3 - (a + 3) * x**2 + 1
    far = a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a
    return np.where(x <= 1, near, np.where(x < 2, far, 0.0))
