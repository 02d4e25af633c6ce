"""Scaled dot-product attention and its masks."""

from __future__ import annotations

import math

import mindspore as ms
from mindspore import Tensor, nn, ops
from mindspore.ops.auto_generate import FlashAttentionScore

from ms_impl.cells.device import on_ascend
from ms_impl.cells.kernel_cell import KernelCell
from ms_impl.cells.kv_cache import LayerCache
from ms_impl.kernels.operators import attention_operator, cached_attention_operator

# Added to hidden scores. Not the smallest number: a negative score on top would make it −inf, and a row of −inf is NaN.
HIDDEN = -1e30
HIDDEN_FP16 = -3e4


def visible_keys(segment_ids: Tensor, columns: Tensor) -> Tensor:
    """Which of S keys each of T queries may attend to: bool [B, 1, T, S].

    Args:
        segment_ids: int [B, S]; 0 is padding, other numbers tell the dialogues of a row apart.
        columns: int [T], or [B, T], the column in the row at which each query stands; keys further right are hidden.
    """
    keys = ops.arange(segment_ids.shape[1]).astype(columns.dtype)
    if columns.ndim == 1:
        causal = keys.reshape(1, -1) <= columns.reshape(-1, 1)
        own = ops.gather(segment_ids, columns, 1)
    else:
        causal = keys.reshape(1, 1, -1) <= columns.expand_dims(-1)
        own = ops.gather_elements(segment_ids, 1, columns)
    same = own.expand_dims(-1) == segment_ids.expand_dims(1)
    real = (segment_ids != 0).expand_dims(1)
    return ops.logical_and(ops.logical_and(same, real), causal).expand_dims(1)


def same_segment(segment_ids: Tensor) -> Tensor:
    """Which of T keys each of T queries may attend to where nothing is causal: bool [B, 1, T, T].

    Args:
        segment_ids: int [B, T]; attention stays within equal ids, and 0 is padding.
    """
    same = segment_ids.expand_dims(-1) == segment_ids.expand_dims(1)
    return ops.logical_and(same, (segment_ids != 0).expand_dims(1)).expand_dims(1)


def sight(segment_ids: Tensor, columns: Tensor) -> Tensor:
    """The same as ``visible_keys``, as the kernel takes it: int32 [B, S + 2·T]."""
    batch = segment_ids.shape[0]
    if columns.ndim == 1:
        own = ops.gather(segment_ids, columns, 1)
        columns = ops.tile(columns.reshape(1, -1), (batch, 1))
    else:
        own = ops.gather_elements(segment_ids, 1, columns)
    return ops.concat((segment_ids.astype(ms.int32), own.astype(ms.int32), columns.astype(ms.int32)), 1)


def sight_of_segments(segment_ids: Tensor) -> Tensor:
    """The same as ``same_segment``, as the kernel takes it: int32 [B, 3·T]."""
    segment_ids = segment_ids.astype(ms.int32)
    return ops.concat((segment_ids, segment_ids, ops.full(segment_ids.shape, segment_ids.shape[1], dtype=ms.int32)), 1)


class MaskedAttention(KernelCell):
    """What all attention cells have: masks of two kinds, which their ``construct`` takes.

    A mask is made once for all layers, by a cell of one kind with those that take it.
    """

    def causal_mask(self, segment_ids: Tensor, columns: Tensor, heads: int, dtype: ms.Type) -> Tensor:
        """For T queries that see what ``visible_keys`` says."""
        return self.mask(visible_keys(segment_ids, columns), heads, dtype)

    def segment_mask(self, segment_ids: Tensor, heads: int, dtype: ms.Type) -> Tensor:
        """For T queries that see what ``same_segment`` says."""
        return self.mask(same_segment(segment_ids), heads, dtype)

    def cached(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor, cache: LayerCache, columns: Tensor) -> Tensor:
        """Attention to all S columns of a cache, after k and v [B, KV, T, d] are written at T of them."""
        k, v = cache(k, v, columns)
        return self.construct(q, k, v, mask)


class ComposedAttention(MaskedAttention):
    """softmax(q·kᵀ/√d + mask)·v from plain operators, softmax in q's dtype; or by a kernel.

    Where several query heads share a key head (GQA) they are taken as more queries of it: keys are not copied.
    """

    of_bf16 = False  # whether the kernel rounds the factors of both products to bf16

    def __init__(self):
        super().__init__()
        self.mix = MaskedMix()

    def use_kernel(self) -> None:
        """Compute by a kernel where nothing is trained."""
        self.kernel = attention_operator(self.of_bf16)
        self.cached_kernel = cached_attention_operator(self.of_bf16)

    def causal_mask(self, segment_ids: Tensor, columns: Tensor, heads: int, dtype: ms.Type) -> Tensor:
        """For T queries that see what ``visible_keys`` says."""
        if self.by_kernel():
            return sight(segment_ids, columns)
        return self.mask(visible_keys(segment_ids, columns), heads, dtype)

    def segment_mask(self, segment_ids: Tensor, heads: int, dtype: ms.Type) -> Tensor:
        """For T queries that see what ``same_segment`` says."""
        if self.by_kernel():
            return sight_of_segments(segment_ids)
        return self.mask(same_segment(segment_ids), heads, dtype)

    def cached(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor, cache: LayerCache, columns: Tensor) -> Tensor:
        """By one kernel where it can: no operator of MindSpore stands in between."""
        if self.kernel is not None and not self.training and mask.ndim == 2:
            return self.cached_kernel(q, k, v, cache.keys, cache.values, mask)
        return super().cached(q, k, v, mask, cache, columns)

    def mask(self, visible: Tensor, heads: int, dtype: ms.Type) -> Tensor:
        """What ``construct`` takes as mask, made once for all layers: [B, heads, T, S], 0 or a large negative number.

        Expanded over the heads because adding a broadcast operand is much slower on CPU.
        """
        low = HIDDEN_FP16 if dtype == ms.float16 else HIDDEN
        hidden = ops.cast(ops.logical_not(visible), dtype) * low
        return ops.tile(hidden, (1, heads, 1, 1))

    def construct(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
        """q [B, H, T, d], k and v [B, KV, S, d], mask of one of the methods → [B, H, T, d]; KV divides H."""
        if self.by_kernel() and (mask is None or mask.ndim == 2):
            if mask is None:
                mask = ops.full((q.shape[0], k.shape[2] + 2 * q.shape[2]), k.shape[2], dtype=ms.int32)
            return self.kernel(q, k, v, mask)
        scaled = q * (1.0 / math.sqrt(q.shape[-1]))
        if q.shape[1] == k.shape[1]:
            return self.mix(scaled, k, v, mask)
        batch, heads, length, width = q.shape
        joint = (batch, k.shape[1], heads // k.shape[1] * length)
        mask = None if mask is None else mask.reshape(*joint, k.shape[2])
        return self.mix(scaled.reshape(*joint, width), k, v, mask).reshape(q.shape)


class QueryMix(nn.Cell):
    """The parts of softmax(q·kᵀ + mask)·v and of its gradient."""

    def __init__(self):
        super().__init__()
        self.scores = ops.BatchMatMul(transpose_b=True)
        self.softmax = ops.Softmax(-1)
        self.matmul = ops.BatchMatMul()
        self.by_keys = ops.BatchMatMul(transpose_a=True)
        self.sum = ops.ReduceSum(keep_dims=True)
        self.concat = ops.Concat(-1)
        self.ones = ops.OnesLike()
        self.after = ops.Depend()

    def weights(self, q: Tensor, k: Tensor, mask: Tensor | None) -> Tensor:
        """What each key counts for each query: [B, H, T, S]."""
        scores = self.scores(q, k)
        if mask is not None:
            scores = scores + mask
        # As a matrix: on CPU softmax of two dimensions is much faster than of four.
        return self.softmax(scores.reshape(-1, scores.shape[-1])).reshape(scores.shape)

    def less_mean(self, dout: Tensor, v: Tensor, out: Tensor) -> Tensor:
        """The gradient by the weights, less its weighted mean for each query: dout·vᵀ − Σ dout·out, [B, H, T, S].

        The mean is one more column of dout, against −1 in v, so that nothing is broadcast.
        """
        width = dout.shape[-1]
        mean = self.sum((dout * out).reshape(-1, width).astype(ms.float32), -1).astype(dout.dtype)
        dout = self.concat((dout, mean.reshape(*dout.shape[:-1], 1)))
        return self.scores(dout, self.concat((v, -self.ones(v[..., :1]))))


class MaskedMix(QueryMix):
    """softmax(q·kᵀ + mask)·v with its own gradient, which makes the weights of the keys again.

    Plain differentiation keeps them and tables for broadcasting: five matrices of scores a layer.
    """

    def construct(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        """q [B, H, T, d], k and v [B, H, S, d], mask [B, H, T, S] or None → [B, H, T, d]."""
        return self.matmul(self.weights(q, k, mask), v)

    def bprop(self, q, k, v, mask, out, dout):
        """Gradients by q, k and v; the mask has none."""
        # Only then: else the compiler finds the same product in the forward pass, and keeps its result.
        weights = self.weights(self.after(q, dout), k, mask)
        by_weights = self.less_mean(dout, v, out)
        by_scores = weights * by_weights
        by_mask = None if mask is None else mask * 0
        return self.matmul(by_scores, k), self.by_keys(by_scores, q), self.by_keys(weights, dout), by_mask


class FusedAttention(MaskedAttention):
    """Ascend's flash attention, which knows GQA, behind the same two methods. Never run on Ascend yet."""

    def __init__(self, heads: int, head_dim: int):
        super().__init__()
        self.flash = FlashAttentionScore(heads, scale_value=1.0 / math.sqrt(head_dim), input_layout="BNSD")
        self.hide = ops.LogicalNot()

    def mask(self, visible: Tensor, heads: int, dtype: ms.Type) -> Tensor:
        """uint8 [B, 1, T, S], 1 where the key is hidden."""
        return self.hide(visible).astype(ms.uint8)

    def construct(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
        """q [B, H, T, d], k and v [B, KV, S, d] → [B, H, T, d]."""
        return self.flash(q, k, v, None, None, None, mask)[3]


def attention(heads: int, head_dim: int) -> nn.Cell:
    """The attention cell for the device in use."""
    return FusedAttention(heads, head_dim) if on_ascend() else ComposedAttention()
