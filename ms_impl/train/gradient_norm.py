"""The norm of all gradients at once: clipping by it, and seeing from it whether one of them is not finite."""

from __future__ import annotations

import mindspore as ms
from mindspore import Tensor, nn, ops

from ms_impl.kernels.operators import in_training, squares_operator

_hyper_map = ops.HyperMap()
_scaled = ops.MultitypeFuncGraph("scaled")


@_scaled.register("Tensor", "Tensor")
def _scale(factor: Tensor, gradient: Tensor) -> Tensor:
    return (gradient.astype(ms.float32) * factor).astype(gradient.dtype)


class SquaredNorm(nn.Cell):
    """The sum of the squares of all elements, which is not finite where one of them, or the sum itself, is not."""

    def __init__(self):
        super().__init__()
        self.kernel = in_training(squares_operator)
        self.square = ops.Square()
        self.sum = ops.ReduceSum()

    def construct(self, gradients: tuple[Tensor, ...]) -> Tensor:
        """An fp32 scalar."""
        parts = ()
        for gradient in gradients:
            parts += (self.of_one(gradient.astype(ms.float32)),)
        return ops.addn(parts)

    def of_one(self, gradient: Tensor) -> Tensor:
        """The same of one of them."""
        if self.kernel is not None:
            return self.kernel(gradient).reshape(())
        # Rows first: on CPU one sum over all axes takes twelve times as long.
        return self.sum(self.sum(self.square(gradient).reshape(-1, gradient.shape[-1]), 1), 0)


class ClipByGlobalNorm(nn.Cell):
    """Scales gradients so that their joint norm is ``max_norm`` at most, as ``torch.nn.utils.clip_grad_norm_`` does."""

    def __init__(self, max_norm: float):
        super().__init__()
        self.max_norm = max_norm
        self.squared_norm = SquaredNorm()

    def construct(self, gradients: tuple[Tensor, ...]) -> tuple[tuple[Tensor, ...], Tensor]:
        """The gradients, clipped and in their own dtypes, and their norm before: fp32 [1]."""
        norm = ops.sqrt(self.squared_norm(gradients)).reshape(1)
        factor = ops.minimum(self.max_norm / (norm + 1e-6), ops.ones_like(norm))
        return _hyper_map(ops.partial(_scaled, factor), gradients), norm
