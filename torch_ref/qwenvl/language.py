"""Qwen-VL's language model in PyTorch (``modeling_qwen.py``: RMSNorm, QWenAttention, QWenMLP, QWenBlock)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ms_impl.qwenvl.config import QwenVLConfig
from torch_ref.precision import at_least_fp32


class RMSNorm(nn.Module):
    """Root mean square norm: normalised in fp32, cast back, then scaled."""

    def __init__(self, width: int, eps: float):
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        """[…, width] → […, width], in x's dtype."""
        y = at_least_fp32(x)
        y = y * torch.rsqrt(y.square().mean(-1, keepdim=True) + self.eps)
        return y.to(x.dtype) * self.weight


def rotary_tables(
    config: QwenVLConfig, positions: Tensor, alpha: float, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor]:
    """cos and sin [B, 1, T, head_dim] in ``dtype`` for positions [B, T]; ``alpha`` is the dynamic NTK factor."""
    dim = config.kv_channels
    base = config.rotary_emb_base * alpha ** (dim / (dim - 2))
    inv_freq = 1.0 / (base ** (torch.arange(0, dim, 2, dtype=dtype) / dim))
    angles = positions[:, None, :, None].to(dtype) * torch.cat((inv_freq, inv_freq))
    return angles.cos(), angles.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate [B, heads, T, head_dim] (NeoX halves) in fp32 and cast back."""
    y = at_least_fp32(x)
    first, second = y.chunk(2, -1)
    return (y * cos + torch.cat((-second, first), -1) * sin).to(x.dtype)


class LayerCache:
    """Keys and values [B, heads, length, head_dim] of one decoder layer, allocated once and overwritten in place."""

    def __init__(self, batch: int, heads: int, length: int, head_dim: int, dtype: torch.dtype):
        self.keys = torch.zeros(batch, heads, length, head_dim, dtype=dtype)
        self.values = torch.zeros_like(self.keys)

    def __call__(self, k: Tensor, v: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
        """Write k and v [B, heads, T, head_dim] at the int ``columns`` [T]; return the whole cache."""
        self.keys.index_copy_(2, columns, k)
        self.values.index_copy_(2, columns, v)
        return self.keys, self.values


class Attention(nn.Module):
    """Multi-head self-attention; ``c_attn`` rows are [Q|K|V], head-major inside."""

    def __init__(self, config: QwenVLConfig):
        super().__init__()
        self.heads = config.num_attention_heads
        self.head_dim = config.kv_channels
        self.c_attn = nn.Linear(config.hidden_size, 3 * config.hidden_size)
        self.c_proj = nn.Linear(config.hidden_size, config.hidden_size, bias=False)

    def forward(
        self,
        x: Tensor,
        visible: Tensor,
        cos: Tensor,
        sin: Tensor,
        q_scale: Tensor | None = None,
        cache: LayerCache | None = None,
        columns: Tensor | None = None,
    ) -> Tensor:
        """x [B, T, D] → [B, T, D].

        Args:
            visible: which key each query may attend to, bool [B, 1, T, S].
            cos, sin: fp32 [B or 1, 1, T, head_dim].
            q_scale: log-n factors [B or 1, 1, T, 1], or None.
            cache, columns: take keys and values of all S columns from the cache after these T ``columns`` are written.
        """
        b, t, width = x.shape
        q, k, v = self.c_attn(x).reshape(b, t, 3, self.heads, self.head_dim).permute(2, 0, 3, 1, 4)
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        if q_scale is not None:
            q = q * q_scale.to(q.dtype)
        if cache is not None:
            k, v = cache(k, v, columns)
        scores = q @ k.transpose(-1, -2) / math.sqrt(self.head_dim)
        scores = scores.masked_fill(~visible, torch.finfo(scores.dtype).min)
        y = (scores.softmax(-1) @ v).transpose(1, 2)
        return self.c_proj(y.reshape(b, t, width))


class MLP(nn.Module):
    """Gated feed-forward layer; **w2** is the gate."""

    def __init__(self, config: QwenVLConfig):
        super().__init__()
        self.w1 = nn.Linear(config.hidden_size, config.ffn_size, bias=False)
        self.w2 = nn.Linear(config.hidden_size, config.ffn_size, bias=False)
        self.c_proj = nn.Linear(config.ffn_size, config.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[B, T, D] → [B, T, D]."""
        return self.c_proj(self.w1(x) * F.silu(self.w2(x)))


class Block(nn.Module):
    """Pre-norm decoder layer."""

    def __init__(self, config: QwenVLConfig):
        super().__init__()
        self.ln_1 = RMSNorm(config.hidden_size, config.layer_norm_epsilon)
        self.attn = Attention(config)
        self.ln_2 = RMSNorm(config.hidden_size, config.layer_norm_epsilon)
        self.mlp = MLP(config)

    def forward(
        self,
        x: Tensor,
        visible: Tensor,
        cos: Tensor,
        sin: Tensor,
        q_scale: Tensor | None = None,
        cache: LayerCache | None = None,
        columns: Tensor | None = None,
    ) -> Tensor:
        """[B, T, D] → [B, T, D]; the other arguments as in ``Attention``."""
        x = x + self.attn(self.ln_1(x), visible, cos, sin, q_scale, cache, columns)
        return x + self.mlp(self.ln_2(x))
