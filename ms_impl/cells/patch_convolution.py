"""The convolution of a vision tower's patches: kernel and stride are equal, so it is one matrix product."""

from __future__ import annotations

import mindspore as ms
from mindspore import Tensor
from mindspore.common.initializer import Normal

from ms_impl.cells.kernel_cell import KernelCell
from ms_impl.cells.linear import INIT_SIGMA, linear, parameter
from ms_impl.kernels.operators import linear_operator


class PatchConvolution(KernelCell):
    """Flattened patches times PyTorch's ``weight`` [width, *shape], plus ``bias`` [width] where there is one."""

    of_bf16 = False

    def __init__(self, width: int, shape: tuple[int, ...], bias: bool, dtype: ms.Type):
        super().__init__()
        self.weight = parameter("weight", (width, *shape), dtype, Normal(INIT_SIGMA))
        self.bias = parameter("bias", (width,), dtype) if bias else None

    def use_kernel(self) -> None:
        """Compute by a kernel where nothing is trained."""
        self.kernel = linear_operator(self.bias is not None, self.of_bf16)

    def construct(self, patches: Tensor) -> Tensor:
        """As ``embed``."""
        return self.embed(patches)

    def embed(self, patches: Tensor) -> Tensor:
        """[N, L, numbers of ``shape``] → [N, L, width], in the type of the patches."""
        if self.by_kernel():
            given = (patches, self.weight) if self.bias is None else (patches, self.weight, self.bias)
            return self.kernel(*given)
        # Cast first: on CPU there is no Reshape of bfloat16.
        return linear(patches, self.weight.astype(patches.dtype).reshape(self.weight.shape[0], -1), self.bias)
