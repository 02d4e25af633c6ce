"""Rotary position embeddings: tables made by the host in numpy, rotation in the graph."""

from __future__ import annotations

from collections.abc import Sequence

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops
from mindspore.ops.auto_generate import RotaryPositionEmbedding

from ms_impl.cells.device import on_ascend
from ms_impl.cells.expand import expand


def rotary_tables(dim: int, base: float, length: int) -> tuple[np.ndarray, np.ndarray]:
    """cos and sin, float32 [length, dim], of positions 0 … length − 1 in NeoX's order (two equal halves)."""
    inv_freq = inverse_frequencies(dim, base)
    angles = np.outer(np.arange(length, dtype=np.float32), np.concatenate((inv_freq, inv_freq)))
    return np.cos(angles), np.sin(angles)


def ntk_base(dim: int, base: float, alpha: float) -> float:
    """The rotary base that dynamic NTK scaling by ``alpha`` gives."""
    return base * alpha ** (dim / (dim - 2))


def inverse_frequencies(dim: int, base: float) -> np.ndarray:
    """The angle by which each pair of a head of ``dim`` turns from one position to the next: float32 [dim / 2]."""
    return (1.0 / (np.float32(base) ** (np.arange(0, dim, 2, dtype=np.float32) / np.float32(dim)))).astype(np.float32)


def axis_of_pairs(dim: int, sections: Sequence[int] | None) -> np.ndarray:
    """Which axis of the positions turns each pair: int32 [dim / 2].

    ``sections``: how many consecutive pairs belong to each axis (time, height, width); None: all to the first. (HF's
    ``mrope_section``.)
    """
    sections = sections or (dim // 2,)
    if sum(sections) != dim // 2:
        raise ValueError(f"sections {list(sections)} do not make up the {dim // 2} pairs of a head of {dim}")
    return np.repeat(np.arange(len(sections), dtype=np.int32), sections)


def sectioned_turns(dim: int, base: float, sections: Sequence[int] | None) -> np.ndarray:
    """The angle by which each pair turns from one position to the next on each axis: float32 [axes, dim / 2].

    ``sections``: see ``axis_of_pairs``.
    """
    axes = axis_of_pairs(dim, sections)
    turns = np.zeros((axes.max() + 1, dim // 2), np.float32)
    turns[axes, np.arange(dim // 2)] = inverse_frequencies(dim, base)
    return turns


def host_angles(position_ids: np.ndarray, turns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What ``RotaryAngles`` computes, on the host: int [B, T] or [B, axes, T] → float32 [B, 1, T, dim], twice."""
    if position_ids.ndim == 2:
        position_ids = np.repeat(position_ids[:, None], len(turns), 1)
    angles = position_ids.swapaxes(1, 2).astype(np.float32) @ turns
    angles = np.concatenate((angles, angles), -1)[:, None]
    return np.cos(angles), np.sin(angles)


class Angles(nn.Cell):
    """cos and sin of positions on several axes, computed in the graph in fp32.

    Args:
        turns: float32 [axes, dim / 2], the angle by which each pair turns from one position to the next on each axis.
            Of a pair that belongs to one axis the others are 0, so that positions · turns sums exactly one product.
    """

    def __init__(self, turns: np.ndarray):
        super().__init__()
        self.turns = Tensor(turns)
        self.axes = len(turns)
        self.matmul = ops.MatMul()

    def of_rows(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """int positions [B, T, axes] → cos and sin, fp32 [B, 1, T, dim], in NeoX's order (two equal halves)."""
        batch, length, axes = rows.shape
        angles = self.matmul(rows.astype(ms.float32).reshape(-1, axes), self.turns)
        angles = ops.concat((angles, angles), -1).reshape(batch, 1, length, -1)
        return ops.cos(angles), ops.sin(angles)


class RotaryAngles(Angles):
    """cos and sin of a decoder's positions: no table as long as the model's context.

    Args:
        dim: of a head.
        sections: see ``axis_of_pairs``.
    """

    def __init__(self, dim: int, base: float, sections: Sequence[int] | None = None):
        super().__init__(sectioned_turns(dim, base, sections))

    def construct(self, position_ids: Tensor) -> tuple[Tensor, Tensor]:
        """int [B, T], or [B, axes, T] → cos and sin, fp32 [B, 1, T, dim], in NeoX's order (two equal halves)."""
        if position_ids.ndim == 2:
            position_ids = ops.tile(position_ids.expand_dims(1), (1, self.axes, 1))
        return self.of_rows(position_ids.swapaxes(1, 2))


class PlaneAngles(Angles):
    """cos and sin of places in a plane: the first half of the pairs turns by the row, the second by the column."""

    def __init__(self, dim: int, base: float = 10000.0):
        frequencies = inverse_frequencies(dim // 2, base)
        zeros = np.zeros_like(frequencies)
        super().__init__(np.stack((np.concatenate((frequencies, zeros)), np.concatenate((zeros, frequencies)))))

    def construct(self, places: Tensor) -> tuple[Tensor, Tensor]:
        """int (row, column) [N, L, 2] → cos and sin, fp32 [N, 1, L, dim], in NeoX's order (two equal halves)."""
        return self.of_rows(places)


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
