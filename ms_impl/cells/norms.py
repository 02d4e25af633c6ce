"""RMSNorm and LayerNorm."""

from __future__ import annotations

import mindspore as ms
from mindspore import Tensor, nn, ops

from ms_impl.cells.device import on_ascend
from ms_impl.cells.linear import parameter


def composed_rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Normalise x [..., width] in fp32, cast back, then scale (the order of Qwen's RMSNorm)."""
    y = x.astype(ms.float32)
    y = y * ops.rsqrt(ops.mean(ops.square(y), -1, True) + eps)
    return y.astype(x.dtype) * weight.astype(x.dtype)


class RMSNorm(nn.Cell):
    """Root mean square norm: normalised in fp32, cast back, then scaled.

    On Ascend one operator does it, ``rms_norm``. Never run on Ascend yet.
    """

    def __init__(self, width: int, eps: float, dtype: ms.Type = ms.float32):
        super().__init__()
        self.eps = eps
        self.weight = parameter("weight", (width,), dtype, "ones")
        self.rms_norm = ops.RmsNorm(eps) if on_ascend() else None

    def construct(self, x: Tensor) -> Tensor:
        """[..., width] → [..., width], in x's dtype."""
        if self.rms_norm is None:
            return composed_rms_norm(x, self.weight, self.eps)
        return self.rms_norm(x, self.weight.astype(x.dtype))[0]


class LayerNorm(nn.Cell):
    """Layer norm over the last axis with ``weight`` and ``bias`` named as in PyTorch."""

    def __init__(self, width: int, eps: float, dtype: ms.Type = ms.float32):
        super().__init__()
        self.weight = parameter("weight", (width,), dtype, "ones")
        self.bias = parameter("bias", (width,), dtype)
        self.norm = ops.LayerNorm(begin_norm_axis=-1, begin_params_axis=-1, epsilon=eps)

    def construct(self, x: Tensor) -> Tensor:
        """[..., width] → [..., width], in x's dtype."""
        return self.norm(x, self.weight.astype(x.dtype), self.bias.astype(x.dtype))[0]
