"""Scaled dot-product attention and its masks."""

from __future__ import annotations

import math

import mindspore as ms
from mindspore import Tensor, nn, ops
from mindspore.ops.auto_generate import FlashAttentionScore

from ms_impl.cells.device import on_ascend

# Added to hidden scores. Not the smallest number: a negative score on top would make it −inf, and a row of −inf is NaN.
HIDDEN = -1e30
HIDDEN_FP16 = -3e4


def visible_keys(segment_ids: Tensor, columns: Tensor) -> Tensor:
    """Which of S keys each of T queries may attend to: bool [B, 1, T, S].

    Args:
        segment_ids: int [B, S]; 0 is padding, other numbers tell the dialogues of a row apart.
        columns: int [T], the column in the row at which each query stands; keys further right are hidden.
    """
    keys = ops.arange(segment_ids.shape[1])
    causal = keys.reshape(1, -1) <= columns.reshape(-1, 1)
    own = ops.gather(segment_ids, columns, 1)
    same = own.expand_dims(-1) == segment_ids.expand_dims(1)
    real = (segment_ids != 0).expand_dims(1)
    return ops.logical_and(ops.logical_and(same, real), causal).expand_dims(1)


class ComposedAttention(nn.Cell):
    """softmax(q·kᵀ/√d + mask)·v from plain operators, softmax in q's dtype."""

    def __init__(self):
        super().__init__()
        self.scores = ops.BatchMatMul(transpose_b=True)
        self.softmax = ops.Softmax(-1)
        self.mix = ops.BatchMatMul()

    def mask(self, visible: Tensor, heads: int, dtype: ms.Type) -> Tensor:
        """What ``construct`` takes as mask, made once for all layers: [B, heads, T, S], 0 or a large negative number.

        Expanded over the heads because adding a broadcast operand is much slower on CPU.
        """
        low = HIDDEN_FP16 if dtype == ms.float16 else HIDDEN
        hidden = ops.cast(ops.logical_not(visible), dtype) * low
        return ops.tile(hidden, (1, heads, 1, 1))

    def construct(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
        """q [B, H, T, d], k and v [B, H, S, d] → [B, H, T, d]."""
        scores = self.scores(q * (1.0 / math.sqrt(q.shape[-1])), k)
        if mask is not None:
            scores = scores + mask
        # As a matrix: on CPU softmax's gradient sums four dimensions seven times slower than two.
        weights = self.softmax(scores.reshape(-1, scores.shape[-1])).reshape(scores.shape)
        return self.mix(weights, v)


class FusedAttention(nn.Cell):
    """Ascend's flash attention behind the same two methods. Never run on Ascend yet."""

    def __init__(self, heads: int, head_dim: int):
        super().__init__()
        self.flash = FlashAttentionScore(heads, scale_value=1.0 / math.sqrt(head_dim), input_layout="BNSD")
        self.hide = ops.LogicalNot()

    def mask(self, visible: Tensor, heads: int, dtype: ms.Type) -> Tensor:
        """uint8 [B, 1, T, S], 1 where the key is hidden."""
        return self.hide(visible).astype(ms.uint8)

    def construct(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
        """q [B, H, T, d], k and v [B, H, S, d] → [B, H, T, d]."""
        return self.flash(q, k, v, None, None, None, mask)[3]


def attention(heads: int, head_dim: int) -> nn.Cell:
    """The attention cell for the device in use."""
    return FusedAttention(heads, head_dim) if on_ascend() else ComposedAttention()
