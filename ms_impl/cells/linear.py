"""Linear and embedding layers whose parameters keep PyTorch's names and layouts."""

from __future__ import annotations

import mindspore as ms
from mindspore import Parameter, Tensor, nn, ops
from mindspore.common.initializer import Normal, initializer

from ms_impl.cells.device import on_ascend
from ms_impl.cells.kernel_cell import KernelCell
from ms_impl.kernels.operators import linear_operator

INIT_SIGMA = 0.02  # initializer_range of the original


def parameter(name: str, shape: tuple[int, ...], dtype: ms.Type, init="zeros") -> Parameter:
    """A trainable parameter; ``init`` is what MindSpore's ``initializer`` takes."""
    return Parameter(initializer(init, shape, dtype), name=name)


def linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    matmul: ops.Primitive = ops.MatMul(transpose_b=True),  # noqa: B008 (primitives hold no state)
    bias_add: ops.Primitive = ops.BiasAdd(),  # noqa: B008
) -> Tensor:
    """x [..., in] times weight [out, in] transposed, plus bias [out]: [..., out], in x's dtype.

    ``matmul`` and ``bias_add`` are given by who shards them.
    """
    # MatMul on two dimensions: on CPU it is faster than ops.dense.
    y = matmul(x.reshape(-1, x.shape[-1]), ops.cast(weight, x.dtype))
    if bias is not None:
        y = bias_add(y, ops.cast(bias, x.dtype))
    return y.reshape(*x.shape[:-1], -1)


class Linear(KernelCell):
    """y = x·Wᵀ + b with ``weight`` [out, in] and ``bias`` [out]. Parameters are cast to x's dtype."""

    adapted = None  # the layer that an adapter in its place adapts
    of_bf16 = False  # whether the kernel rounds both factors to bf16

    def __init__(self, in_size: int, out_size: int, bias: bool = True, dtype: ms.Type = ms.float32):
        super().__init__()
        self.weight = parameter("weight", (out_size, in_size), dtype, Normal(INIT_SIGMA))
        self.bias = parameter("bias", (out_size,), dtype) if bias else None
        self.matmul = ops.MatMul(transpose_b=True)
        self.bias_add = ops.BiasAdd()

    def use_kernel(self) -> None:
        """Compute by a kernel where nothing is trained."""
        self.kernel = linear_operator(self.bias is not None, self.of_bf16)

    def construct(self, x: Tensor) -> Tensor:
        """[..., in] → [..., out]."""
        if self.by_kernel():
            return self.kernel(x, self.weight) if self.bias is None else self.kernel(x, self.weight, self.bias)
        return linear(x, self.weight, self.bias, self.matmul, self.bias_add)


class Embedding(nn.Cell):
    """Rows of ``weight`` [vocabulary, width]."""

    def __init__(self, vocab_size: int, width: int, dtype: ms.Type = ms.float32):
        super().__init__()
        self.weight = parameter("weight", (vocab_size, width), dtype, Normal(INIT_SIGMA))
        self.gather = ops.Gather()
        # On CPU there is no Gather of bfloat16.
        self.gathered_as = ms.float32 if dtype == ms.bfloat16 and not on_ascend() else dtype

    def construct(self, ids: Tensor) -> Tensor:
        """int ids [...] → [..., width]."""
        return self.gather(ops.cast(self.weight, self.gathered_as), ids, 0)
