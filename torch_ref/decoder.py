"""The decoder that the families with Hugging Face's Qwen layout share, as in ``ms_impl/cells``."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from torch_ref.precision import angle_dtype, at_least_fp32


@dataclass(frozen=True)
class DecoderShape:
    """The sizes and options of a decoder layer; ``heads`` · ``head_dim`` need not be ``hidden_size``."""

    hidden_size: int
    intermediate_size: int
    heads: int
    kv_heads: int
    head_dim: int
    eps: float = 1e-6
    qkv_bias: bool = False
    qk_norm: bool = False  # RMSNorm of each head of q and k, before the rotation


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


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate [B, heads, T, head_dim] (two equal halves) in fp32 and cast back."""
    y = at_least_fp32(x)
    first, second = y.chunk(2, -1)
    return (y * cos + torch.cat((-second, first), -1) * sin).to(x.dtype)


def rotary_angles(position_ids: Tensor, dim: int, base: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """cos and sin [B, 1, T, dim] in ``dtype`` of positions [B, T]."""
    inv_freq = 1.0 / base ** (torch.arange(0, dim, 2, dtype=dtype) / dim)
    angles = position_ids[:, None, :, None].to(dtype) * torch.cat((inv_freq, inv_freq))
    return angles.cos(), angles.sin()


def visible_keys(segment_ids: Tensor, columns: Tensor) -> Tensor:
    """Which of S keys each of T queries may attend to: bool [B, 1, T, S].

    Args:
        segment_ids: int [B, S]; 0 is padding, other numbers tell the conversations of a row apart.
        columns: int [T], the column in the row at which each query stands; keys further right are hidden.
    """
    causal = torch.arange(segment_ids.shape[1]) <= columns[:, None]
    same = segment_ids[:, columns, None] == segment_ids[:, None, :]
    real = (segment_ids != 0)[:, None, :]
    return (same & real & causal)[:, None]


def same_segment(segment_ids: Tensor) -> Tensor:
    """Which of T keys each of T queries may attend to where nothing is causal: bool [B, 1, T, T].

    Args:
        segment_ids: int [B, T]; attention stays within equal ids, and 0 is padding.
    """
    same = segment_ids[:, :, None] == segment_ids[:, None, :]
    return (same & (segment_ids != 0)[:, None, :])[:, None]


def attend(q: Tensor, k: Tensor, v: Tensor, visible: Tensor) -> Tensor:
    """softmax(q·kᵀ/√d)·v: q [B, H, T, d], k and v [B, KV, S, d], bool [B, 1, T, S] → [B, H, T, d]."""
    groups = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
    scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
    return scores.masked_fill(~visible, torch.finfo(scores.dtype).min).softmax(-1) @ v


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


class DecoderAttention(nn.Module):
    """Self-attention with as many or fewer key heads than query heads (``self_attn``)."""

    def __init__(self, shape: DecoderShape):
        super().__init__()
        self.shape = shape
        queries, keys = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
        self.q_proj = nn.Linear(shape.hidden_size, queries, bias=shape.qkv_bias)
        self.k_proj = nn.Linear(shape.hidden_size, keys, bias=shape.qkv_bias)
        self.v_proj = nn.Linear(shape.hidden_size, keys, bias=shape.qkv_bias)
        self.o_proj = nn.Linear(queries, shape.hidden_size, bias=False)
        self.q_norm = RMSNorm(shape.head_dim, shape.eps) if shape.qk_norm else nn.Identity()
        self.k_norm = RMSNorm(shape.head_dim, shape.eps) if shape.qk_norm else nn.Identity()

    def split_heads(self, x: Tensor) -> Tensor:
        """[B, T, heads · head_dim] → [B, T, heads, head_dim]."""
        return x.unflatten(-1, (-1, self.shape.head_dim))

    def forward(
        self,
        x: Tensor,
        visible: Tensor,
        cos: Tensor,
        sin: Tensor,
        cache: LayerCache | None = None,
        columns: Tensor | None = None,
    ) -> Tensor:
        """x [B, T, D] → [B, T, D].

        Args:
            visible: which key each query may attend to, bool [B, 1, T, S].
            cos, sin: fp32 [B, 1, T, head_dim].
            cache, columns: take keys and values of all S columns from the cache after these T ``columns`` are written.
        """
        q = rotate(self.q_norm(self.split_heads(self.q_proj(x))).transpose(1, 2), cos, sin)
        k = rotate(self.k_norm(self.split_heads(self.k_proj(x))).transpose(1, 2), cos, sin)
        v = self.split_heads(self.v_proj(x)).transpose(1, 2)
        if cache is not None:
            k, v = cache(k, v, columns)
        return self.o_proj(attend(q, k, v, visible).transpose(1, 2).flatten(2))


class GatedMLP(nn.Module):
    """down(silu(gate(x)) · up(x)) (``mlp``)."""

    def __init__(self, width: int, inner: int):
        super().__init__()
        self.gate_proj = nn.Linear(width, inner, bias=False)
        self.up_proj = nn.Linear(width, inner, bias=False)
        self.down_proj = nn.Linear(inner, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[…, D] → […, D]."""
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class DecoderLayer(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)); parameters carry Hugging Face's names."""

    def __init__(self, shape: DecoderShape):
        super().__init__()
        self.input_layernorm = RMSNorm(shape.hidden_size, shape.eps)
        self.self_attn = DecoderAttention(shape)
        self.post_attention_layernorm = RMSNorm(shape.hidden_size, shape.eps)
        self.mlp = GatedMLP(shape.hidden_size, shape.intermediate_size)

    def forward(
        self,
        x: Tensor,
        visible: Tensor,
        cos: Tensor,
        sin: Tensor,
        cache: LayerCache | None = None,
        columns: Tensor | None = None,
    ) -> Tensor:
        """[B, T, D] → [B, T, D]; the other arguments as in ``DecoderAttention``."""
        x = x + self.self_attn(self.input_layernorm(x), visible, cos, sin, cache, columns)
        return x + self.mlp(self.post_attention_layernorm(x))


def merge_features(hidden: Tensor, features: Tensor, columns: Tensor) -> Tensor:
    """Token embeddings [B, T, D] with features [B, F, D] in place of those at columns int [B, F]; column T is none.

    Column T takes the absent features and is cut off again: their gradients are zeros, not missing.
    """
    index = (torch.arange(len(hidden))[:, None], columns.long())
    return F.pad(hidden, (0, 0, 0, 1)).index_put(index, features.to(hidden.dtype))[:, :-1]


Media = Sequence[tuple[Tensor, Tensor]]  # features and their columns, kind after kind


class CausalDecoder(nn.Module):
    """Token embeddings, decoder layers and the last norm; the head is its owner's, tied or not."""

    def __init__(self, shape: DecoderShape, layers: int, vocab_size: int, rope_theta: float):
        super().__init__()
        self.shape = shape
        self.base = rope_theta
        self.embed_tokens = nn.Embedding(vocab_size, shape.hidden_size)
        self.layers = nn.ModuleList(DecoderLayer(shape) for _ in range(layers))
        self.norm = RMSNorm(shape.hidden_size, shape.eps)

    def embed(self, input_ids: Tensor, media: Media = ()) -> Tensor:
        """Token embeddings [B, T, D]; for each (features [B · units, F, D], columns int [B, units, F]) the features
        stand at their columns. Column T is none."""
        hidden = self.embed_tokens(input_ids.long())
        for features, columns in media:
            features = features.reshape(len(hidden), -1, hidden.shape[-1])
            hidden = merge_features(hidden, features, columns.flatten(1))
        return hidden

    def forward(self, hidden: Tensor, segment_ids: Tensor | None = None, position_ids: Tensor | None = None) -> Tensor:
        """Embeddings [B, T, D] → the normalised last states [B, T, D].

        Args:
            segment_ids: int [B, T], 0 for padding; attention stays within equal ids. None: only the future is hidden.
            position_ids: int [B, T]. None: the column index.
        """
        columns = torch.arange(hidden.shape[1])
        segment_ids = torch.ones(hidden.shape[:2], dtype=torch.int64) if segment_ids is None else segment_ids
        visible = visible_keys(segment_ids, columns)
        cos, sin = self.angles(columns[None] if position_ids is None else position_ids)
        for layer in self.layers:
            hidden = layer(hidden, visible, cos, sin)
        return self.norm(hidden)

    def angles(self, position_ids: Tensor) -> tuple[Tensor, Tensor]:
        """cos and sin [B, 1, T, head_dim] of int positions [B, T]."""
        return rotary_angles(position_ids, self.shape.head_dim, self.base, angle_dtype(self.norm.weight.dtype))

    def new_cache(self, batch: int, length: int) -> list[LayerCache]:
        """An empty cache of ``length`` columns for every layer."""
        shape = (batch, self.shape.kv_heads, length, self.shape.head_dim)
        return [LayerCache(*shape, self.norm.weight.dtype) for _ in self.layers]

    def step(
        self, hidden: Tensor, segment_ids: Tensor, columns: Tensor, position_ids: Tensor, cache: list[LayerCache]
    ) -> Tensor:
        """Run the ``columns`` int [T] of hidden [B, T, D] through a cache of S columns: the normalised states.

        Args:
            segment_ids: int [B, S]; 0 is hidden: padding, and columns not filled yet.
            position_ids: int [B, T].
        """
        visible, (cos, sin) = visible_keys(segment_ids, columns), self.angles(position_ids)
        for layer, kept in zip(self.layers, cache):
            hidden = layer(hidden, visible, cos, sin, kept, columns)
        return self.norm(hidden)
