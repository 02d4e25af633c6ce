"""Optimizer state divided among data-parallel ranks (ZeRO stage 1; Rajbhandari et al., 2020), and read as a whole.

Only collectives are used that CPU has, too: AllGather puts the updated parts together; gradients come reduced whole.
"""

from __future__ import annotations

import math

from mindspore import Tensor, nn, ops


class Partition(nn.Cell):
    """The equal parts of a tensor's elements, in order, that ``ranks`` ranks hold; zeros fill up the last ones.

    A single rank holds the tensor as it is, which is also how MindSpore wants it to do the dividing itself.
    """

    def __init__(self, shape: tuple[int, ...], ranks: int, rank: int):
        super().__init__()
        self.shape = tuple(shape)
        self.ranks = ranks
        self.size = math.prod(self.shape)
        self.length = -(-self.size // ranks)
        self.begin = rank * self.length
        self.part_shape = self.shape if ranks == 1 else (self.length,)
        self.all_gather = ops.AllGather() if ranks > 1 else None

    def take(self, whole: Tensor) -> Tensor:
        """This rank's part of an fp32 tensor that every rank has: [length]."""
        if self.ranks == 1:
            return whole
        flat = whole.reshape(-1)
        if self.length * self.ranks > self.size:
            flat = ops.concat((flat, ops.zeros((self.length * self.ranks - self.size,), flat.dtype)))
        return flat[self.begin : self.begin + self.length]

    def join(self, part: Tensor) -> Tensor:
        """The whole fp32 tensor from all ranks' parts. Collective: every rank has to call it."""
        if self.ranks == 1:
            return part
        return self.all_gather(part)[: self.size].reshape(self.shape)
