"""The cross-attention resampler in MindSpore (``visual.py`` of the original: Resampler)."""

from __future__ import annotations

import math

import mindspore as ms
from mindspore import Tensor, nn, ops
from mindspore.common.initializer import Normal

from ms_impl.cells.attention import attention
from ms_impl.cells.bicubic import bicubic_matrix
from ms_impl.cells.linear import INIT_SIGMA, Linear, linear, parameter
from ms_impl.cells.norms import LayerNorm
from ms_impl.qwenvl.config import VisionConfig

LAYER_NORM_EPS = 1e-6


class PositionResizer(nn.Cell):
    """Resizes a square table of positions [n², C] to [grid², C], bicubic and in fp32: M·P·Mᵀ over both axes."""

    def __init__(self, rows: int, grid: int):
        super().__init__()
        self.side = math.isqrt(rows)
        self.grid = grid
        self.matrix = Tensor(bicubic_matrix(grid, self.side))

    def construct(self, table: Tensor) -> Tensor:
        """[n², C] → [grid², C], in fp32 where anything is computed: a table of bf16 is not rounded once more."""
        if self.side == self.grid:
            return table
        width = table.shape[-1]
        plane = table.astype(ms.float32).reshape(self.side, self.side * width)
        plane = ops.MatMul()(self.matrix, plane).reshape(self.grid, self.side, width)
        plane = ops.MatMul()(self.matrix, plane.transpose(1, 0, 2).reshape(self.side, self.grid * width))
        return plane.reshape(self.grid, self.grid, width).transpose(1, 0, 2).reshape(-1, width)


class CrossAttention(nn.Cell):
    """Multi-head attention of queries to other keys and values, with ``in_proj_weight`` = [Q|K|V] rows."""

    def __init__(self, config: VisionConfig, dtype: ms.Type):
        super().__init__()
        width = config.output_dim
        self.heads = config.resampler_heads
        self.in_proj_weight = parameter("in_proj_weight", (3 * width, width), dtype, Normal(INIT_SIGMA))
        self.in_proj_bias = parameter("in_proj_bias", (3 * width,), dtype)
        self.out_proj = Linear(width, width, dtype=dtype)
        self.attention = attention(self.heads, width // self.heads)

    def split_heads(self, x: Tensor) -> Tensor:
        """[N, L, width] → [N, heads, L, head_dim]."""
        return x.reshape(x.shape[0], x.shape[1], self.heads, -1).transpose(0, 2, 1, 3)

    def construct(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """query [1, Q, width], key and value [N, L, width] → [N, Q, width]."""
        wq, wk, wv = ops.split(self.in_proj_weight.astype(query.dtype), query.shape[-1])
        bq, bk, bv = ops.split(self.in_proj_bias.astype(query.dtype), query.shape[-1])
        q = self.split_heads(linear(query, wq, bq))
        k = self.split_heads(linear(key, wk, bk))
        v = self.split_heads(linear(value, wv, bv))
        q = ops.tile(q, (key.shape[0], 1, 1, 1))
        y = self.attention(q, k, v).transpose(0, 2, 1, 3)
        return self.out_proj(y.reshape(y.shape[0], y.shape[1], -1))


class Resampler(nn.Cell):
    """``num_queries`` learned queries attend to the patches; keys carry positions, values do not."""

    def __init__(self, config: VisionConfig, dtype: ms.Type):
        super().__init__()
        width = config.output_dim
        self.query = parameter("query", (config.n_queries, width), dtype, Normal(INIT_SIGMA))
        self.pos_embed = parameter("pos_embed", (config.n_queries, width), dtype, Normal(INIT_SIGMA))
        self.kv_proj = Linear(config.width, width, bias=False, dtype=dtype) if config.has_kv_proj else nn.Identity()
        self.ln_q = LayerNorm(width, LAYER_NORM_EPS, dtype)
        self.ln_kv = LayerNorm(width, LAYER_NORM_EPS, dtype)
        self.attn = CrossAttention(config, dtype)
        self.resize = PositionResizer(config.n_queries, config.grid)

    def construct(self, x: Tensor) -> Tensor:
        """Patches [N, grid², vision width] → [N, num_queries, output_dim]."""
        kv = self.ln_kv(self.kv_proj(x))
        q = self.ln_q(self.query.astype(x.dtype)) + self.pos_embed.astype(x.dtype)
        positions = self.resize(self.pos_embed).astype(x.dtype)
        return self.attn(q.expand_dims(0), kv + positions.expand_dims(0), kv)
