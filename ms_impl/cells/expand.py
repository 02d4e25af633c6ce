"""Operands expanded before they are combined.

MindSpore 2.9.0's Add, Sub and Mul on CPU broadcast by tables of 16 bytes for each element of the result, which every
such operator keeps from the first step to the last. Tile has none, and is faster. Floating-point operands of one shape,
and scalars, are exempt; integers never are.
"""

from __future__ import annotations

from mindspore import Tensor, ops

_tile = ops.Tile()  # in gradients of one's own, MindSpore 2.9.0 compiles neither ops.tile nor zip


def expand(operand: Tensor, shape: tuple[int, ...]) -> Tensor:
    """operand, of as many axes as ``shape``, repeated along those in which it has size 1."""
    multiples = ()
    for axis in range(len(shape)):
        multiples += (shape[axis] // operand.shape[axis],)
    return _tile(operand, multiples)
