"""The contract between template and model in numpy: what the host side hands over, and what is computed of it.

Fp64, slow and short. Segments stand in place of window reordering, columns in place of scatter masks, whole positions
in place of rope rules: that the golden vectors come out shows that the declared arrays are enough. A sequence has no
batch axis here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

HIDDEN = -1e30
_erf = np.vectorize(math.erf)

Array = np.ndarray


class Weights:
    """A checkpoint's tensors in fp64, by name, below a prefix."""

    def __init__(self, tensors: Mapping[str, Array], prefix: str = ""):
        self._tensors, self._prefix = tensors, prefix

    def __getitem__(self, name: str) -> Array:
        return self._tensors[self._prefix + name].astype(np.float64)

    def __contains__(self, name: str) -> bool:
        return self._prefix + name in self._tensors

    def below(self, name: str) -> Weights:
        """Those whose names go on with a dot after ``name``."""
        return Weights(self._tensors, f"{self._prefix}{name}.")

    def linear(self, x: Array, name: str) -> Array:
        """x · weightᵀ, and the bias if there is one."""
        y = x @ self[f"{name}.weight"].reshape(len(self[f"{name}.weight"]), -1).T
        return y + self[f"{name}.bias"] if f"{name}.bias" in self else y

    def layer_norm(self, x: Array, name: str, eps: float) -> Array:
        centred = x - x.mean(-1, keepdims=True)
        normal = centred / np.sqrt(np.square(centred).mean(-1, keepdims=True) + eps)
        return normal * self[f"{name}.weight"] + self[f"{name}.bias"]

    def rms_norm(self, x: Array, name: str, eps: float) -> Array:
        return x / np.sqrt(np.square(x).mean(-1, keepdims=True) + eps) * self[f"{name}.weight"]


def silu(x: Array) -> Array:
    return x / (1 + np.exp(-x))


def gelu(x: Array) -> Array:
    return x * (1 + _erf(x / math.sqrt(2))) / 2


def gelu_tanh(x: Array) -> Array:
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def softmax(x: Array) -> Array:
    powers = np.exp(x - x.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def rotate(x: Array, cos: Array, sin: Array) -> Array:
    half = x.shape[-1] // 2
    return x * cos + np.concatenate((-x[..., half:], x[..., :half]), -1) * sin


def attend(q: Array, k: Array, v: Array, visible: Array) -> Array:
    """q [H, T, d], k and v [KV, S, d], bool [T, S] → [H, T, d]; the heads of a key head are more queries of it."""
    joint = (len(k), len(q) // len(k) * q.shape[1], -1)
    seen = np.broadcast_to(visible, (len(q), *visible.shape)).reshape(joint)
    scores = q.reshape(joint) @ k.swapaxes(-1, -2) / math.sqrt(q.shape[-1])
    return (softmax(np.where(seen, scores, HIDDEN)) @ v).reshape(q.shape)


def split_heads(x: Array, heads: int) -> Array:
    return x.reshape(len(x), heads, -1).swapaxes(0, 1)


def join_heads(x: Array) -> Array:
    return x.swapaxes(0, 1).reshape(x.shape[1], -1)


def same_segment(segments: Array) -> Array:
    """bool [T, T]: equal and not 0."""
    return (segments[:, None] == segments) & (segments != 0)[None]


def rotary(positions: Array, dim: int, base: float, sections: Sequence[int] | None = None) -> tuple[Array, Array]:
    """cos and sin [T, dim] of positions [axes, T]; ``sections`` pairs turn by each axis."""
    angles = positions[..., None] / base ** (np.arange(0, dim, 2) / dim)
    ends = np.cumsum([0, *(sections or (dim // 2,))])
    angles = np.concatenate([angles[i][:, a:b] for i, (a, b) in enumerate(zip(ends, ends[1:]))], -1)
    angles = np.concatenate((angles, angles), -1)
    return np.cos(angles), np.sin(angles)


def rotary_2d(places: Array, dim: int, base: float = 10000.0) -> tuple[Array, Array]:
    """cos and sin [N, dim] of (row, column): half of the pairs turn by each."""
    angles = (places[..., None] / base ** (np.arange(0, dim // 2, 2) / (dim // 2))).reshape(len(places), -1)
    angles = np.concatenate((angles, angles), -1)
    return np.cos(angles), np.sin(angles)


def block_order(frames: int, rows: int, columns: int) -> Array:
    """frame, row and column of every patch [N, 3]: frame after frame, 2 × 2 block after block."""
    grid = np.stack(np.meshgrid(np.arange(rows), np.arange(columns), indexing="ij"), -1)
    blocks = grid.reshape(rows // 2, 2, columns // 2, 2, 2).transpose(0, 2, 1, 3, 4).reshape(-1, 2)
    return np.concatenate([np.c_[np.full(len(blocks), frame), blocks] for frame in range(frames)])


def window_segments(frames: Array, rows: Array, columns: Array, side: int) -> Array:
    """A number for each window of ``side`` patches of each frame; frames are numbered from 1."""
    return frames * 10**6 + rows // side * 1000 + columns // side


def merge_features(embeddings: Array, features: Array, columns: Array) -> Array:
    """embeddings [T, D] with features [F, D] at their columns; column T is cut off again."""
    padded = np.concatenate((embeddings, np.zeros((1, embeddings.shape[1]))))
    padded[columns] = features
    return padded[:-1]


def tower_attention(
    x: Array, weights: Weights, heads: int, turns: tuple[Array, Array] | None, visible: Array, out: str, **names: str
) -> Array:
    """Self-attention of an encoder; ``names`` are those of q, k and v, ``out`` that of the last projection."""
    q, k, v = (split_heads(weights.linear(x, names[part]), heads) for part in "qkv")
    if turns is not None:
        q, k = rotate(q, *turns), rotate(k, *turns)
    return weights.linear(join_heads(attend(q, k, v, visible)), out)


def gated_mlp(x: Array, weights: Weights) -> Array:
    return weights.linear(silu(weights.linear(x, "gate_proj")) * weights.linear(x, "up_proj"), "down_proj")


def decoder(
    x: Array, positions: Array, segments: Array, weights: Weights, layers: int, heads: int, kv_heads: int, dim: int,
    base: float, sections: Sequence[int] | None, eps: float,
) -> Array:  # fmt: skip
    """The one decoder that the families share: x [T, D] → normalised [T, D]."""
    turns = rotary(positions, dim, base, sections)
    columns = np.arange(len(x))
    visible = same_segment(segments) & (columns[None] <= columns[:, None])
    for number in range(layers):
        layer = weights.below(f"layers.{number}")
        x = x + _decoder_attention(
            layer.rms_norm(x, "input_layernorm", eps), layer, heads, kv_heads, turns, visible, eps
        )
        x = x + gated_mlp(layer.rms_norm(x, "post_attention_layernorm", eps), layer.below("mlp"))
    return weights.rms_norm(x, "norm", eps)


def _decoder_attention(y, layer, heads, kv_heads, turns, visible, eps) -> Array:
    own = layer.below("self_attn")
    q, k, v = (split_heads(own.linear(y, f"{p}_proj"), n) for p, n in (("q", heads), ("k", kv_heads), ("v", kv_heads)))
    if "q_norm.weight" in own:
        q, k = own.rms_norm(q, "q_norm", eps), own.rms_norm(k, "k_norm", eps)
    return own.linear(join_heads(attend(rotate(q, *turns), rotate(k, *turns), v, visible)), "o_proj")
