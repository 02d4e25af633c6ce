"""Convolutions along a sequence as matrix products."""

from __future__ import annotations

import mindspore as ms
from mindspore import Tensor, nn, ops
from mindspore.common.initializer import Normal

from ms_impl.cells.linear import INIT_SIGMA, linear, parameter


class Conv1d(nn.Cell):
    """A convolution of width 3, padded by 1, with PyTorch's ``weight`` [out, in, 3] and ``bias`` [out].

    Args:
        stride: 1 or 2; 2 takes sequences of even length.
    """

    def __init__(self, in_size: int, out_size: int, stride: int = 1, dtype: ms.Type = ms.float32):
        super().__init__()
        if stride not in (1, 2):
            raise ValueError(f"stride must be 1 or 2, not {stride}")
        self.stride = stride
        self.weight = parameter("weight", (out_size, in_size, 3), dtype, Normal(INIT_SIGMA))
        self.bias = parameter("bias", (out_size,), dtype)
        self.taps_first = ops.Transpose()

    def construct(self, x: Tensor) -> Tensor:
        """[N, L, in] → [N, L / stride, out], in x's dtype."""
        weight = self.taps_first(self.weight.astype(x.dtype), (0, 2, 1)).reshape(self.weight.shape[0], -1)
        return linear(self.windows(x), weight, self.bias)

    def windows(self, x: Tensor) -> Tensor:
        """[N, L, in] → the three entries around every ``stride``-th, end to end: [N, L / stride, 3 · in]."""
        count, length, width = x.shape
        edge = ops.zeros((count, 1, width), x.dtype)
        if self.stride == 1:
            return ops.concat((ops.concat((edge, x[:, :-1]), 1), x, ops.concat((x[:, 1:], edge), 1)), -1)
        pairs = x.reshape(count, length // 2, 2 * width)  # an even entry and the odd one after it
        before = ops.concat((edge, pairs[:, :-1, width:]), 1)
        return ops.concat((before, pairs), -1)
