"""Weights read on the host, a piece at a time: never is a large table or matrix cast as a whole. CPU only."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator

import mindspore as ms
import numpy as np
from mindspore import Parameter

PIECE = 1 << 25  # elements of a matrix that are in fp32 at once: 128 MB
_BLOCK = 1 << 18  # elements widened at once: they stay in the processor's cache
_CARRIERS = {ms.float32: np.float32, ms.float16: np.float16, ms.bfloat16: np.uint16}


def content(parameter: Parameter) -> np.ndarray:
    """What a parameter holds, as a view: float32, float16, or bfloat16 as uint16. ``set_data`` may move it."""
    data = (ctypes.c_char * parameter.nbytes).from_address(parameter.data_ptr())
    return np.frombuffer(data, _CARRIERS[parameter.dtype]).reshape(parameter.shape)


def widen(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """``target``, float32, filled with the values of ``source``, of one shape and as ``content`` gives them."""
    if source.dtype != np.uint16:
        target[...] = source
        return target
    values, bits = source.reshape(-1), target.reshape(-1).view(np.uint32)
    for start in range(0, values.size, _BLOCK):
        part = slice(start, start + _BLOCK)
        np.left_shift(values[part], 16, out=bits[part], dtype=np.uint32, casting="unsafe")
    return target


def widened(values: np.ndarray) -> np.ndarray:
    """The same in float32: a copy, unless they are float32."""
    return values if values.dtype == np.float32 else widen(values, np.empty(values.shape, np.float32))


def rows(table: Parameter, ids: np.ndarray) -> np.ndarray:
    """Rows of a table [n, width] by int ids […]: float32 […, width]. Others are not read.

    Ids beyond either end are those of the end.
    """
    return widened(content(table)[np.clip(ids, 0, table.shape[0] - 1)])


def pieces(matrix: Parameter, count: int | None = None) -> Iterator[tuple[slice, np.ndarray]]:
    """The first ``count`` rows of a matrix [n, width], all where None, in float32, some rows at a time."""
    values = content(matrix)[:count]
    step = max(PIECE // values.shape[1], 1)
    for start in range(0, len(values), step):
        part = slice(start, min(start + step, len(values)))
        yield part, widened(values[part])


def product(x: np.ndarray, matrix: Parameter) -> np.ndarray:
    """x · matrixᵀ: float32 [N, width] and [n, width] → [N, n]. The bits of a row do not depend on the others."""
    result = np.empty((len(x), matrix.shape[0]), np.float32)
    for part, values in pieces(matrix):
        for row, vector in zip(result, x):  # one by one: products of several are summed in another order
            row[part] = values @ vector
    return result
