"""Finding gradients that are not finite, on devices without an overflow register."""

from __future__ import annotations

import mindspore as ms
from mindspore import Tensor, ops

_hyper_map = ops.HyperMap()
_not_finite = ops.MultitypeFuncGraph("not_finite")


@_not_finite.register("Tensor")
def _count_not_finite(gradient: Tensor) -> Tensor:
    return ops.logical_not(ops.isfinite(gradient)).astype(ms.float32).sum()


def any_overflow(gradients: tuple[Tensor, ...]) -> Tensor:
    """Whether any element is infinite or NaN: a bool scalar."""
    return ops.addn(_hyper_map(_not_finite, gradients)) > 0
