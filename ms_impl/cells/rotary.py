"""Rotary position embeddings: tables made by the host in numpy, rotation in the graph."""

from __future__ import annotations

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops
from mindspore.ops.auto_generate import RotaryPositionEmbedding

from ms_impl.cells.device import on_ascend
from ms_impl.cells.expand import expand


def rotary_tables(dim: int, base: float, length: int) -> tuple[np.ndarray, np.ndarray]:
    """cos and sin, float32 [length, dim], of positions 0 … length − 1 in NeoX's order (two equal halves)."""
    inv_freq = 1.0 / (np.float32(base) ** (np.arange(0, dim, 2, dtype=np.float32) / np.float32(dim)))
    angles = np.outer(np.arange(length, dtype=np.float32), np.concatenate((inv_freq, inv_freq)))
    return np.cos(angles), np.sin(angles)


def ntk_base(dim: int, base: float, alpha: float) -> float:
    """The rotary base that dynamic NTK scaling by ``alpha`` gives."""
    return base * alpha ** (dim / (dim - 2))


class ComposedRotation(nn.Cell):
    """Rotation from plain operators."""

    def construct(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Rotate x [B, heads, T, dim] by cos, sin fp32 [B, 1, T, dim] in fp32 and cast back to x's dtype."""
        y = x.astype(ms.float32)
        half = y.shape[-1] // 2
        cos, sin = expand(cos, y.shape), expand(sin, y.shape)  # the compiler makes them once for all layers
        return (y * cos + ops.concat((-y[..., half:], y[..., :half]), -1) * sin).astype(x.dtype)


class FusedRotation(nn.Cell):
    """The Ascend operator behind the same method. Never run on Ascend yet."""

    def __init__(self):
        super().__init__()
        self.rotate = RotaryPositionEmbedding()

    def construct(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Rotate x [B, heads, T, dim] by cos, sin fp32 [B, 1, T, dim] in fp32 and cast back to x's dtype."""
        return self.rotate(x.astype(ms.float32), cos, sin, 0).astype(x.dtype)


def rotation() -> nn.Cell:
    """The rotation for the device in use."""
    return FusedRotation() if on_ascend() else ComposedRotation()
