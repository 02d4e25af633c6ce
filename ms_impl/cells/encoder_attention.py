"""Attention of encoders: nothing is causal, keys have as many heads as queries, rotation where there is one."""

from __future__ import annotations

import mindspore as ms
from mindspore import Tensor, nn

from ms_impl.cells.attention import attention
from ms_impl.cells.block_attention import BlockAttention
from ms_impl.cells.device import on_ascend
from ms_impl.cells.heads import JoinHeads, SplitHeads

LONGEST = 1024  # columns of a row whose scores are held whole


class EncoderAttention(nn.Cell):
    """What stands between an encoder layer's projections, whose names differ from family to family.

    Args:
        rotary: whether queries and keys are rotated.
    """

    def __init__(self, heads: int, head_dim: int, rotary: bool = True):
        super().__init__()
        self.heads = heads
        self.head_dim = head_dim
        self.split_heads = SplitHeads(heads, head_dim, rotary)
        self.join_heads = JoinHeads()
        self.attention = attention(heads, head_dim)
        # On Ascend flash attention holds no scores, and loops with gradients of their own have never run there.
        self.by_blocks = None if on_ascend() else BlockAttention()

    def takes_blocks(self, length: int) -> bool:
        """Whether rows are so long that their scores are not held, and no kernel does without them."""
        return self.by_blocks is not None and length > LONGEST and not self.attention.by_kernel()

    def within(self, segments: Tensor, dtype: ms.Type) -> Tensor:
        """What ``construct`` takes as mask for attention within the segments int [N, L], 0 is hidden.

        It is made once for all layers; of long rows it is the segments themselves.
        """
        if self.takes_blocks(segments.shape[1]):
            return segments
        return self.attention.segment_mask(segments, self.heads, dtype)

    def construct(
        self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor, cos: Tensor | None = None, sin: Tensor | None = None
    ) -> Tensor:
        """Projected q, k, v [N, L, heads · head_dim] → the same shape; cos and sin fp32 [N, 1, L, head_dim]."""
        q, k, v = self.split_heads(q, cos, sin), self.split_heads(k, cos, sin), self.split_heads(v)
        long = mask.ndim == 2 and self.takes_blocks(q.shape[2])
        mixed = self.by_blocks(q, k, v, mask) if long else self.attention(q, k, v, mask)
        return self.join_heads(mixed)
