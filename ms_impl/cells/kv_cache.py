"""The key-value cache of one decoder layer."""

from __future__ import annotations

import ctypes
from collections.abc import Callable

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn, ops

from ms_impl.cells.device import on_ascend
from ms_impl.cells.linear import parameter


def take_column(x: Tensor, columns: Tensor) -> Tensor:
    """One column of each row: x [B, T, D], int columns [B] → [B, D]."""
    batch, length, width = x.shape
    index = ops.arange(batch).astype(ms.int32) * length + columns
    return ops.gather(x.reshape(-1, width), index, 0)


class LayerCache(nn.Cell):
    """Keys and values [B, heads, length, head_dim], allocated once and overwritten in place."""

    def __init__(self, batch: int, heads: int, length: int, head_dim: int, dtype: ms.Type):
        super().__init__()
        self.shape = (batch, heads, length, head_dim)
        flat = (batch * heads, length, head_dim)
        self.keys = parameter("keys", flat, dtype)
        self.values = parameter("values", flat, dtype)
        self.keys.requires_grad = False
        self.values.requires_grad = False
        self.write = ops.ScatterNdUpdate()

    def construct(self, k: Tensor, v: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
        """Write k and v [B, heads, T, head_dim] at the int ``columns``, [T] or each row's own [B, T]: the cache."""
        batch, heads, _, _ = self.shape
        rows, count = batch * heads, columns.shape[-1]
        row = ops.tile(ops.arange(rows).reshape(-1, 1), (1, count))
        if columns.ndim == 1:
            column = ops.tile(columns.reshape(1, -1), (rows, 1))
        else:
            column = ops.tile(columns.reshape(batch, 1, count), (1, heads, 1)).reshape(rows, count)
        index = ops.stack((row.astype(ms.int32), column.astype(ms.int32)), -1)
        self.write(self.keys, index, k.reshape(rows, count, -1))
        self.write(self.values, index, v.reshape(rows, count, -1))
        return self.keys.reshape(self.shape), self.values.reshape(self.shape)

    def copy_row(self, row: int, source: LayerCache, columns: int) -> None:
        """Take the first ``columns`` of the first row of another cache into a row of this one."""
        self.put_columns(row, 0, *source.columns(0, 0, columns))

    def columns(self, row: int, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        """Keys and values of some columns of a row, [heads, stop − start, bytes]; on a CPU views, which change."""
        own = slice(row * self.shape[1], (row + 1) * self.shape[1])
        return _content(self.keys)[own, start:stop], _content(self.values)[own, start:stop]

    def put_columns(self, row: int, start: int, keys: np.ndarray, values: np.ndarray) -> None:
        """Write what ``columns`` gave into a row, from column ``start`` on."""
        own = slice(row * self.shape[1], (row + 1) * self.shape[1])
        for target, taken in ((self.keys, keys), (self.values, values)):

            def copy(content: np.ndarray, taken: np.ndarray = taken) -> None:
                content[own, start : start + taken.shape[1]] = taken

            _change(target, copy)

    def clear_row(self, row: int) -> None:
        """Zeros in a row: what is hidden by a mask must still be finite."""
        heads = self.shape[1]

        def clear(content: np.ndarray) -> None:
            content[row * heads : (row + 1) * heads] = 0

        _change(self.keys, clear)
        _change(self.values, clear)


def _content(source: Parameter) -> np.ndarray:
    """What a parameter [n, columns, dim] holds: on a CPU its bytes, of any dtype, as a view; on Ascend a copy."""
    if on_ascend():
        return source.asnumpy()
    rows, columns, _ = source.shape
    data = (ctypes.c_char * source.nbytes).from_address(source.data_ptr())
    return np.frombuffer(data, np.uint8).reshape(rows, columns, -1)


def _change(target: Parameter, change: Callable[[np.ndarray], None]) -> None:
    """Let something write into ``_content``. On Ascend, where this never ran, it goes through the host."""
    content = _content(target)
    change(content)
    if on_ascend():
        target.set_data(Tensor(content, target.dtype))
