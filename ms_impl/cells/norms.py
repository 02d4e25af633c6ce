"""RMSNorm and LayerNorm."""

from __future__ import annotations

import mindspore as ms
from mindspore import Tensor, nn, ops

from ms_impl.cells.device import on_ascend
from ms_impl.cells.expand import expand
from ms_impl.cells.kernel_cell import KernelCell
from ms_impl.cells.linear import parameter
from ms_impl.kernels.operators import layer_norm_operator, rms_norm_operator


class ComposedRMSNorm(nn.Cell):
    """Normalises in fp32, casts back, then scales, in this order; plain operators.

    Its gradient is written out, so that of each norm only its input is kept for it.
    """

    def __init__(self, eps: float):
        super().__init__()
        self.eps = eps
        self.square = ops.Square()
        self.rsqrt = ops.Rsqrt()
        self.mean = ops.ReduceMean(keep_dims=True)
        self.sum = ops.ReduceSum()
        self.after = ops.Depend()

    def construct(self, x: Tensor, weight: Tensor) -> Tensor:
        """x [..., width] and weight [width] → [..., width], in x's dtype."""
        rows = x.reshape(-1, x.shape[-1])
        normal = self.normalised(rows)[0].astype(x.dtype)
        return (normal * expand(weight.astype(x.dtype).reshape(1, -1), rows.shape)).reshape(x.shape)

    def bprop(self, x, weight, out, dout):
        """Gradients by x and weight."""
        rows, slope = x.reshape(-1, x.shape[-1]), dout.reshape(-1, x.shape[-1])
        # Only then: else the compiler finds the same in the forward pass, and keeps its results.
        normal, factor = self.normalised(self.after(rows, dout))
        by_weight = self.sum(slope.astype(ms.float32) * normal.astype(x.dtype).astype(ms.float32), 0)
        slope = (slope * expand(weight.astype(x.dtype).reshape(1, -1), rows.shape)).astype(ms.float32)
        along = self.mean(slope * normal, -1)
        by_x = (slope - normal * expand(along, rows.shape)) * factor
        return by_x.astype(x.dtype).reshape(x.shape), by_weight.astype(weight.dtype)

    def normalised(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """rows [N, width] divided by their root mean squares, and what they were multiplied by for it; fp32."""
        rows = rows.astype(ms.float32)
        factor = expand(self.rsqrt(self.mean(self.square(rows), -1) + self.eps), rows.shape)
        return rows * factor, factor


class RMSNorm(KernelCell):
    """Root mean square norm: normalised in fp32, cast back, then scaled.

    On Ascend one operator does it, ``rms_norm``. Never run on Ascend yet.
    """

    def __init__(self, width: int, eps: float, dtype: ms.Type = ms.float32):
        super().__init__()
        self.eps = eps
        self.weight = parameter("weight", (width,), dtype, "ones")
        self.composed = None if on_ascend() else ComposedRMSNorm(eps)
        self.rms_norm = ops.RmsNorm(eps) if on_ascend() else None

    def use_kernel(self) -> None:
        """Compute by a kernel where nothing is trained."""
        self.kernel, self.epsilon = rms_norm_operator(), Tensor([self.eps], ms.float32)

    def construct(self, x: Tensor) -> Tensor:
        """[..., width] → [..., width], in x's dtype."""
        if self.by_kernel():
            return self.kernel(x, self.weight, self.epsilon)
        if self.composed is not None:
            return self.composed(x, self.weight)
        return self.rms_norm(x, self.weight.astype(x.dtype))[0]


class LayerNorm(KernelCell):
    """Layer norm over the last axis with ``weight`` and ``bias`` named as in PyTorch."""

    def __init__(self, width: int, eps: float, dtype: ms.Type = ms.float32):
        super().__init__()
        self.eps = eps
        self.weight = parameter("weight", (width,), dtype, "ones")
        self.bias = parameter("bias", (width,), dtype)
        self.norm = ops.LayerNorm(begin_norm_axis=-1, begin_params_axis=-1, epsilon=eps)

    def use_kernel(self) -> None:
        """Compute by a kernel where nothing is trained."""
        self.kernel, self.epsilon = layer_norm_operator(), Tensor([self.eps], ms.float32)

    def construct(self, x: Tensor) -> Tensor:
        """[..., width] → [..., width], in x's dtype."""
        if self.by_kernel():
            return self.kernel(x, self.weight, self.bias, self.epsilon)
        return self.norm(x, self.weight.astype(x.dtype), self.bias.astype(x.dtype))[0]
