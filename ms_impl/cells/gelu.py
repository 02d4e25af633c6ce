"""GELU, exact and as PyTorch approximates it by tanh."""

from __future__ import annotations

import math

import mindspore as ms
from mindspore import Tensor, ops

from ms_impl.cells.kernel_cell import KernelCell
from ms_impl.kernels.operators import activation_operator


class Gelu(KernelCell):
    """x·(1 + erf(x/√2))/2, as ``ops.gelu(x, approximate="none")`` computes it, of operators that can be sharded."""

    def __init__(self):
        super().__init__()
        self.div = ops.Div()
        self.erf = ops.Erf()
        self.add = ops.Add()
        self.mul = ops.Mul()
        self.halve = ops.Mul()

    def use_kernel(self) -> None:
        """Compute by a kernel where nothing is trained."""
        self.kernel = activation_operator("gelu")

    def construct(self, x: Tensor) -> Tensor:
        """Any shape, in x's dtype."""
        if self.by_kernel():
            return self.kernel(x)
        y = self.add(self.erf(self.div(x, math.sqrt(2.0))), 1.0)
        return self.halve(self.mul(x, y), 0.5)


class GeluTanh(KernelCell):
    """x·(1 + tanh(√(2/π)·(x + 0.044715·x³)))/2, PyTorch's ``gelu(x, approximate="tanh")``.

    As x·sigmoid(2·…), which is the same: MindSpore 2.9.0's Tanh on CPU is off by up to 1e-4 of its value.
    """

    def __init__(self):
        super().__init__()
        self.sigmoid = ops.Sigmoid()

    def use_kernel(self) -> None:
        """Compute by a kernel where nothing is trained."""
        self.kernel = activation_operator("gelu_tanh")

    def construct(self, x: Tensor) -> Tensor:
        """Any shape, in x's dtype; the cube in fp32, where fp16 would overflow from 40 on."""
        if self.by_kernel():
            return self.kernel(x)
        y = x.astype(ms.float32)
        doubled = (y + y * y * y * 0.044715) * (2.0 * math.sqrt(2.0 / math.pi))
        return (y * self.sigmoid(doubled)).astype(x.dtype)
