"""The exact GELU."""

from __future__ import annotations

import math

from mindspore import Tensor, nn, ops


class Gelu(nn.Cell):
    """x·(1 + erf(x/√2))/2, as ``ops.gelu(x, approximate="none")`` computes it, of operators that can be sharded."""

    def __init__(self):
        super().__init__()
        self.div = ops.Div()
        self.erf = ops.Erf()
        self.add = ops.Add()
        self.mul = ops.Mul()
        self.halve = ops.Mul()

    def construct(self, x: Tensor) -> Tensor:
        """Any shape, in x's dtype."""
        y = self.add(self.erf(self.div(x, math.sqrt(2.0))), 1.0)
        return self.halve(self.mul(x, y), 0.5)
