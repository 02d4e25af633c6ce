"""The cross-attention resampler in PyTorch (``visual.py`` of the original: Resampler)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ms_impl.qwenvl.config import VisionConfig
from torch_ref.precision import at_least_fp32

LAYER_NORM_EPS = 1e-6


def resize_positions(table: Tensor, grid: int) -> Tensor:
    """Resize a square table of positions [n², C] to [grid², C], bicubic (A = −0.75, half-pixel centres) and in fp32."""
    side = math.isqrt(table.shape[0])
    if side == grid:
        return table
    planes = at_least_fp32(table).reshape(1, side, side, -1).permute(0, 3, 1, 2)
    planes = F.interpolate(planes, size=(grid, grid), mode="bicubic", align_corners=False)
    return planes.permute(0, 2, 3, 1).flatten(0, 2).to(table.dtype)


class CrossAttention(nn.Module):
    """Multi-head attention of queries to other keys and values, with ``in_proj_weight`` = [Q|K|V] rows."""

    def __init__(self, config: VisionConfig):
        super().__init__()
        width = config.output_dim
        self.heads = config.resampler_heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)

    def split_heads(self, x: Tensor) -> Tensor:
        """[N, L, width] → [N, heads, L, head_dim]."""
        return x.reshape(*x.shape[:2], self.heads, -1).transpose(1, 2)

    def forward(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """query [1, Q, width], key and value [N, L, width] → [N, Q, width]."""
        weights, biases = self.in_proj_weight.chunk(3), self.in_proj_bias.chunk(3)
        q, k, v = (self.split_heads(F.linear(x, w, b)) for x, w, b in zip((query, key, value), weights, biases))
        scores = (q / math.sqrt(q.shape[-1])) @ k.transpose(-1, -2)
        y = (scores.softmax(-1) @ v).transpose(1, 2)
        return self.out_proj(y.flatten(2))


class Resampler(nn.Module):
    """``num_queries`` learned queries attend to the patches; keys carry positions, values do not."""

    def __init__(self, config: VisionConfig):
        super().__init__()
        width = config.output_dim
        self.grid = config.grid
        self.query = nn.Parameter(torch.empty(config.n_queries, width))
        self.pos_embed = nn.Parameter(torch.empty(config.n_queries, width))
        self.kv_proj = nn.Linear(config.width, width, bias=False) if config.has_kv_proj else nn.Identity()
        self.ln_q = nn.LayerNorm(width, eps=LAYER_NORM_EPS)
        self.ln_kv = nn.LayerNorm(width, eps=LAYER_NORM_EPS)
        self.attn = CrossAttention(config)

    def forward(self, x: Tensor) -> Tensor:
        """Patches [N, grid², vision width] → [N, num_queries, output_dim]."""
        kv = self.ln_kv(self.kv_proj(x))
        q = self.ln_q(self.query) + self.pos_embed
        return self.attn(q[None], kv + resize_positions(self.pos_embed, self.grid), kv)
