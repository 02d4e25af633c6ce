"""The cross-attention resampler in MindSpore (``visual.py`` of the original: Resampler)."""

from __future__ import annotations

import math

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops
from mindspore.common.initializer import Normal

from ms_impl.cells.attention import attention
from ms_impl.cells.bicubic import bicubic_matrix
from ms_impl.cells.heads import JoinHeads, SplitHeads
from ms_impl.cells.linear import INIT_SIGMA, Linear, linear, parameter
from ms_impl.cells.norms import LayerNorm
from ms_impl.kernels.operators import linear_rows_operator
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

    kernel = None  # projects by some of the rows where nothing is trained: see ``use_kernels``
    of_bf16 = False  # whether it rounds both factors to bf16

    def __init__(self, config: VisionConfig, dtype: ms.Type):
        super().__init__()
        width = config.output_dim
        self.heads = config.resampler_heads
        self.in_proj_weight = parameter("in_proj_weight", (3 * width, width), dtype, Normal(INIT_SIGMA))
        self.in_proj_bias = parameter("in_proj_bias", (3 * width,), dtype)
        self.out_proj = Linear(width, width, dtype=dtype)
        self.rows = [Tensor(part) for part in np.arange(3 * width, dtype=np.int32).reshape(3, width)]
        self.split_heads = SplitHeads(self.heads, width // self.heads, rotary=False)
        self.join_heads = JoinHeads()
        self.attention = attention(self.heads, width // self.heads)

    def use_kernel(self) -> None:
        """Compute by a kernel where nothing is trained."""
        self.kernel = linear_rows_operator(self.of_bf16)

    def project(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Each by its third of the rows, of the same shapes."""
        weight, bias = self.in_proj_weight, self.in_proj_bias
        if self.kernel is not None and not self.training:
            of_q, of_k, of_v = self.rows
            q = self.kernel(query, weight, bias, of_q)
            return q, self.kernel(key, weight, bias, of_k), self.kernel(value, weight, bias, of_v)
        wq, wk, wv = ops.split(weight.astype(query.dtype), query.shape[-1])
        bq, bk, bv = ops.split(bias.astype(query.dtype), query.shape[-1])
        return linear(query, wq, bq), linear(key, wk, bk), linear(value, wv, bv)

    def construct(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """query [1, Q, width], key and value [N, L, width] → [N, Q, width]."""
        q, k, v = (self.split_heads(x) for x in self.project(query, key, value))
        q = ops.tile(q, (key.shape[0], 1, 1, 1))
        return self.out_proj(self.join_heads(self.attention(q, k, v)))


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
