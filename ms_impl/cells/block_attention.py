"""Attention within segments of long rows, a block of queries at a time: never are all scores held.

The scores of an image of 12,544 patches in 16 heads would take 10 GB, and plain differentiation keeps several copies.
"""

from __future__ import annotations

import math

import mindspore as ms
from mindspore import Tensor, nn, ops

from ms_impl.cells.attention import HIDDEN, HIDDEN_FP16, QueryMix

BLOCK = 256  # queries


class BlockAttention(nn.Cell):
    """softmax(q·kᵀ/√d)·v over the keys of a query's own segment, softmax in q's dtype."""

    def __init__(self, block: int = BLOCK):
        super().__init__()
        self.mix = _BlockMix(block)

    def construct(self, q: Tensor, k: Tensor, v: Tensor, segments: Tensor) -> Tensor:
        """q, k, v [N, H, L, d] → [N, H, L, d]; segments int [N, L], 0 is hidden."""
        return self.mix(q * (1.0 / math.sqrt(q.shape[-1])), k, v, segments)


class _BlockMix(QueryMix):
    """softmax(q·kᵀ)·v within segments, and its own gradient, which makes the weights of each block again."""

    def __init__(self, block: int):
        super().__init__()
        self.block = block
        self.gather = ops.Gather()
        self.put = ops.TensorScatterUpdate()
        self.zeros = ops.ZerosLike()
        self.tile = ops.Tile()
        self.move = ops.Transpose()
        self.first = Tensor(0, ms.int32)

    def construct(self, q: Tensor, k: Tensor, v: Tensor, segments: Tensor) -> Tensor:
        """q, k, v [N, H, L, d], segments int [N, L] → [N, H, L, d]."""
        queries, own = self.in_blocks(q), self.segments_in_blocks(segments)
        mixed, number = self.zeros(queries), self.first
        while number < queries.shape[0]:
            block = self.gather(queries, number, 0)
            weights = self.weights(block, k, self.mask(self.gather(own, number, 0), segments, block))
            mixed = self.put(mixed, number.reshape(1, 1), self.matmul(weights, v).expand_dims(0))
            number = number + 1
        return self.joined(mixed, q.shape[2])

    def bprop(self, q, k, v, segments, out, dout):
        """Gradients by q, k and v; segments have none."""
        # Only then: else the compiler may find the same in the forward pass, and keep its results.
        queries, own = self.in_blocks(self.after(q, dout)), self.segments_in_blocks(segments)
        slopes, mixed = self.in_blocks(dout), self.in_blocks(out)
        by_q, by_k, by_v = self.zeros(queries), self.zeros(k).astype(ms.float32), self.zeros(v).astype(ms.float32)
        number = self.first
        while number < queries.shape[0]:
            block, slope = self.gather(queries, number, 0), self.gather(slopes, number, 0)
            weights = self.weights(block, k, self.mask(self.gather(own, number, 0), segments, block))
            by_scores = weights * self.less_mean(slope, v, self.gather(mixed, number, 0))
            by_q = self.put(by_q, number.reshape(1, 1), self.matmul(by_scores, k).expand_dims(0))
            by_k = by_k + self.by_keys(by_scores, block).astype(ms.float32)
            by_v = by_v + self.by_keys(weights, slope).astype(ms.float32)
            number = number + 1
        return self.joined(by_q, q.shape[2]), by_k.astype(k.dtype), by_v.astype(v.dtype), segments * 0

    def mask(self, own: Tensor, segments: Tensor, queries: Tensor) -> Tensor:
        """What is added to the scores [N, H, block, L] of queries with the segments ``own`` [N, block]."""
        batch, length = segments.shape
        low = HIDDEN_FP16 if queries.dtype == ms.float16 else HIDDEN
        same = own.reshape(batch, -1, 1) == segments.reshape(batch, 1, length)
        real = (segments != 0).reshape(batch, 1, length)
        hidden = ops.cast(ops.logical_not(ops.logical_and(same, real)), queries.dtype) * low
        return self.tile(hidden.reshape(batch, 1, -1, length), (1, queries.shape[1], 1, 1))

    def in_blocks(self, x: Tensor) -> Tensor:
        """[N, H, L, d] → [·, N, H, block, d], filled up with zeros."""
        batch, heads, length, width = x.shape
        missing = -length % self.block
        if missing:
            x = ops.concat((x, ops.zeros((batch, heads, missing, width), x.dtype)), 2)
        return self.move(x.reshape(batch, heads, -1, self.block, width), (2, 0, 1, 3, 4))

    def segments_in_blocks(self, segments: Tensor) -> Tensor:
        """int [N, L] → [·, N, block], filled up with zeros."""
        batch, length = segments.shape
        missing = -length % self.block
        if missing:
            segments = ops.concat((segments, ops.zeros((batch, missing), segments.dtype)), 1)
        return self.move(segments.reshape(batch, -1, self.block), (1, 0, 2))

    def joined(self, blocks: Tensor, length: int) -> Tensor:
        """The way back: [·, N, H, block, d] → [N, H, L, d]."""
        _, batch, heads, _, width = blocks.shape
        return self.move(blocks, (1, 2, 0, 3, 4)).reshape(batch, heads, -1, width)[:, :, :length]
