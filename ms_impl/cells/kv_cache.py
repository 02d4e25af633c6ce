"""The key-value cache of one decoder layer."""

from __future__ import annotations

import mindspore as ms
from mindspore import Tensor, nn, ops

from ms_impl.cells.linear import parameter


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
        """Write k and v [B, heads, T, head_dim] at the int ``columns`` [T]; return the whole cache."""
        rows, count = self.keys.shape[0], columns.shape[0]
        row = ops.tile(ops.arange(rows).reshape(-1, 1), (1, count))
        column = ops.tile(columns.reshape(1, -1), (rows, 1))
        index = ops.stack((row.astype(ms.int32), column.astype(ms.int32)), -1)
        self.write(self.keys, index, k.reshape(rows, count, -1))
        self.write(self.values, index, v.reshape(rows, count, -1))
        return self.keys.reshape(self.shape), self.values.reshape(self.shape)
