"""A function of a compiled library as an operator of MindSpore's graphs."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from typing import Any

import mindspore as ms
from mindspore import ops
from mindspore.ops.signature import make_sig, sig_dtype, sig_rw

from ms_impl.kernels.build import library

Shape = tuple[int, ...]
Gradient = Callable[[], Callable]
_GRADIENTS: dict[str, Gradient] = {}  # by name: an operator holds no function, for a graph is known by what it holds


class Operator(ops.Custom):
    """An operator that a copied cell shares with the cell; ``ops.Custom`` itself cannot be copied."""

    def __deepcopy__(self, memo: dict) -> Operator:
        return self

    def get_bprop(self) -> Callable | None:
        """What MindSpore takes for its gradients, made when it asks: who only infers compiles no kernel of theirs."""
        name = self.attrs["gradient"]
        return _made_gradient(name) if name else None


class Update(Operator):
    """One that writes to its first three inputs, parameters. MindSpore would give it a copy of one that others read."""

    __mindspore_signature__ = (
        make_sig("parameter", sig_rw.RW_WRITE, dtype=sig_dtype.T),
        make_sig("exp_avg", sig_rw.RW_WRITE, dtype=sig_dtype.T),
        make_sig("exp_avg_sq", sig_rw.RW_WRITE, dtype=sig_dtype.T),
        make_sig("gradient", dtype=sig_dtype.T),
        make_sig("factors", dtype=sig_dtype.T),
    )

    def __init__(self, *arguments: Any):
        super().__init__(*arguments)
        self.add_prim_attr("side_effect_mem", True)


def operator(
    name: str,
    function: str,
    shape: Callable[..., Shape],
    dtype: Callable[..., ms.Type],
    gradient: Gradient | None = None,
    kind: type[Operator] = Operator,
) -> Operator | None:
    """``function`` of the library ``name``, with the rules for the shapes and types of what it gives.

    None where there is no library. ``gradient`` makes what MindSpore takes for its gradients (gradients.py).
    """
    path = library(name)
    return path and _made(f"{path}:{function}", shape, dtype, gradient, kind)


@cache
def _made(
    function: str,
    shape: Callable[..., Shape],
    dtype: Callable[..., ms.Type],
    gradient: Gradient | None,
    kind: type[Operator],
) -> Operator:
    """One for all cells: a model has hundreds, and each takes its time to be made and to be described."""
    made = kind(function, shape, dtype, "aot")
    # Two of one function and equal attributes MindSpore takes for one, with one gradient and one rule for shapes.
    made.add_prim_attr("shape", shape.__name__)
    made.add_prim_attr("gradient", gradient.__name__ if gradient else "")
    if gradient:
        _GRADIENTS[gradient.__name__] = gradient
    return made


@cache
def _made_gradient(name: str) -> Callable:
    return _GRADIENTS[name]()


def first_shape(x: Shape, *_: Shape) -> Shape:
    return x


def first_dtype(x: ms.Type, *_: ms.Type) -> ms.Type:
    return x


def one_number(*_: Shape) -> Shape:
    return (1,)


def weighted_shape(weights: Shape, table: Shape) -> Shape:
    return (*weights[:-1], math.prod(table[1:]))


def products_shape(x: Shape, y: Shape) -> Shape:
    return x[-1], y[-1]


def last_shape(x: Shape) -> Shape:
    return (x[-1],)
