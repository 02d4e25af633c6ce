"""Projections to heads and back: by plain operators, or by a kernel where nothing is trained, with the same bits."""

from __future__ import annotations

import numpy as np
from mindspore import Tensor, nn, ops

from ms_impl.cells.device import unless_on_ascend
from ms_impl.cells.kernel_cell import KernelCell
from ms_impl.cells.rotary import rotation
from ms_impl.kernels.operators import from_heads_operator, to_heads_operator


@ops.constexpr
def _order(batch: int, outer: int, inner: int) -> Tensor:
    """Where the rows [batch, outer, inner] lie, in the order [batch, inner, outer]."""
    rows = np.arange(batch * outer * inner, dtype=np.int32).reshape(batch, outer, inner)
    return Tensor(rows.swapaxes(1, 2).reshape(-1))


class SwapAxes(nn.Cell):
    """[B, M, N, width] → [B, N, M, width], by rows.

    MindSpore 2.9.0's Transpose on CPU keeps 8 bytes of tables for each element from when it is compiled: in fp32, twice
    what it moves.
    """

    def __init__(self):
        super().__init__()
        self.gather = ops.Gather()

    def construct(self, x: Tensor) -> Tensor:
        """Of the same dtype."""
        return self.swapped(x)

    def bprop(self, x, out, dout):
        """The axes swapped back; the gradient of Gather would add up what it moves."""
        return (self.swapped(dout),)

    def swapped(self, x: Tensor) -> Tensor:
        """The axes 1 and 2 swapped."""
        batch, outer, inner, width = x.shape
        rows = self.gather(x.reshape(-1, width), _order(batch, outer, inner), 0)
        return rows.reshape(batch, inner, outer, width)


def swap_axes(x: Tensor, transpose: ops.Transpose, swap: SwapAxes | None) -> Tensor:
    """[B, M, N, width] → [B, N, M, width], by ``transpose`` where there is no ``swap``."""
    return transpose(x, (0, 2, 1, 3)) if swap is None else swap(x)


class SplitHeads(KernelCell):
    """[B, T, heads · width] → [B, heads, T, width], rotated where there are angles.

    Args:
        rotary: whether there are.
    """

    def __init__(self, heads: int, width: int, rotary: bool = True):
        super().__init__()
        self.heads, self.width = heads, width
        self.transpose = ops.Transpose()
        self.swap = unless_on_ascend(SwapAxes)
        self.rotate = rotation() if rotary else None
        self.columns = Tensor(np.arange(heads * width, dtype=np.int32).reshape(1, heads, width))

    def use_kernel(self) -> None:
        """Compute by a kernel where nothing is trained."""
        self.kernel = to_heads_operator(packed=False, rotary=False)
        self.rotating_kernel = to_heads_operator(packed=False, rotary=True)

    def construct(self, x: Tensor, cos: Tensor | None = None, sin: Tensor | None = None) -> Tensor:
        """cos and sin fp32 [B or 1, 1, T, width], or None for no rotation."""
        if self.by_kernel():
            return self.kernel(x, self.columns) if cos is None else self.rotating_kernel(x, self.columns, cos, sin)
        x = x.reshape(*x.shape[:2], self.heads, self.width)
        x = swap_axes(x, self.transpose, self.swap)
        return x if cos is None else self.rotate(x, cos, sin)


class SplitPacked(KernelCell):
    """q, k and v of one projection [B, T, 3 · heads · width] → three of [B, heads, T, width], q and k rotated.

    Args:
        by_head: whether the three of a head lie beside each other; else all of q, all of k, all of v.
        rotary: whether there are angles.
    """

    def __init__(self, heads: int, width: int, by_head: bool, rotary: bool):
        super().__init__()
        self.heads, self.width, self.by_head = heads, width, by_head
        self.split = ops.Split(-1, 3)
        self.transpose = ops.Transpose()
        self.swap = unless_on_ascend(SwapAxes)
        self.rotate = rotation() if rotary else None
        numbers = np.arange(3 * heads * width, dtype=np.int32)
        shape, axis = ((heads, 3, width), 1) if by_head else ((3, heads, width), 0)
        self.rotary = rotary
        self.columns = Tensor(np.moveaxis(numbers.reshape(shape), axis, 0).copy())

    def use_kernel(self) -> None:
        """Compute by a kernel where nothing is trained."""
        self.kernel = to_heads_operator(packed=True, rotary=self.rotary)

    def construct(
        self, qkv: Tensor, cos: Tensor | None = None, sin: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """cos and sin fp32 [B or 1, 1, T, width], or None for no rotation."""
        if self.by_kernel():
            q, k, v = self.kernel(qkv, self.columns) if cos is None else self.kernel(qkv, self.columns, cos, sin)
            return q, k, v
        batch, length, _ = qkv.shape
        if self.by_head:
            qkv = qkv.reshape(batch, length, self.heads, 3 * self.width)
        parts = [x.reshape(batch, length, self.heads, self.width) for x in self.split(qkv)]
        q, k, v = [swap_axes(x, self.transpose, self.swap) for x in parts]
        return (q, k, v) if cos is None else (self.rotate(q, cos, sin), self.rotate(k, cos, sin), v)


class JoinHeads(KernelCell):
    """[B, heads, T, width] → [B, T, heads · width]."""

    def __init__(self):
        super().__init__()
        self.transpose = ops.Transpose()
        self.swap = unless_on_ascend(SwapAxes)

    def use_kernel(self) -> None:
        """Compute by a kernel where nothing is trained."""
        self.kernel = from_heads_operator()

    def construct(self, x: Tensor) -> Tensor:
        """Of the same dtype."""
        if self.by_kernel():
            return self.kernel(x)
        return swap_axes(x, self.transpose, self.swap).reshape(x.shape[0], x.shape[2], -1)
