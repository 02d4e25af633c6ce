"""One layer compiled once, in whose place stands each layer of its kind in turn: its weights are passed to it.

A graph of all layers whose weights are cast holds all casts at once, and takes as long to compile as it has layers.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn
from mindspore.nn.utils import no_init_parameters

from ms_impl.cells.linear import Linear, parameter
from ms_impl.generate.host_weights import content, widen

_SIXTEEN_BITS = (ms.bfloat16, ms.float16)


class LayerFrame:
    """A cell like a layer, with parameters of its own.

    Parameters of 16 bits are widened into it where the model computes in fp32, which is exact, and much faster than
    MindSpore's Cast on a CPU; others are not copied, but those of the layer that it holds.

    Args:
        layers: of one kind: they differ in nothing but the values of their parameters.
        compute_dtype: of the activations.
    """

    def __init__(self, layers: Sequence[nn.Cell], compute_dtype: ms.Type):
        self.layers = layers
        self.cell, own = _empty_copy(layers[0], compute_dtype)
        self._pairs = [
            [(own[name], theirs, own[name].dtype == theirs.dtype) for name, theirs in parameters_of(layer).items()]
            for layer in layers
        ]  # of each layer: of the cell, of the layer, and whether they are of one type
        self._holds: tuple[object, int] | None = None

    def hold(self, number: int, run: object) -> None:
        """Be the layer of this number. Within one ``run`` the weights do not change."""
        if self._holds == (run, number):
            return
        for own, theirs, alike in self._pairs[number]:
            if not alike:
                widen(content(theirs), content(own))
            elif own.has_init:
                own.set_data(theirs)
            else:
                own.assign_value(theirs)  # what set_data comes to, after asking what is known here
        self._holds = run, number


def parameters_of(layer: nn.Cell) -> dict[str, Parameter]:
    """By their names within the layer."""
    return dict(layer.parameters_and_names())


def one_kind(layers: Sequence[nn.Cell]) -> bool:
    """Whether layers can stand in one another's place: no adapter is in one, and their parameters are alike."""
    if any(getattr(cell, "adapted", None) is not None for layer in layers for _, cell in layer.cells_and_names()):
        return False
    forms = [[(name, p.shape, p.dtype) for name, p in layer.parameters_and_names()] for layer in layers]
    return bool(forms) and all(form == forms[0] for form in forms)


def _empty_copy(layer: nn.Cell, compute_dtype: ms.Type) -> tuple[nn.Cell, dict[str, Parameter]]:
    """A copy of a layer, and its parameters by name, which hold nothing yet."""
    copied: dict[int, Any] = {}  # by the originals, as deepcopy takes what it shall not copy itself
    own, read_directly = {}, _read_by_kernels(layer)
    for name, theirs in parameters_of(layer).items():
        sixteen = theirs.dtype in _SIXTEEN_BITS and id(theirs) not in read_directly
        widens = compute_dtype == ms.float32 and sixteen
        with no_init_parameters():
            mine = parameter(f"frame.{name}", theirs.shape, compute_dtype if widens else theirs.dtype)
        if widens:
            mine.set_data(Tensor.from_numpy(np.empty(theirs.shape, np.float32)))
        mine.requires_grad = False
        own[name] = copied[id(theirs)] = mine
    for _, cell in layer.cells_and_names():  # in training; it cannot be copied, and nothing is recomputed here
        copied[id(cell._recompute_cell)] = None
    return copy.deepcopy(layer, copied).set_train(False), own


def _read_by_kernels(layer: nn.Cell) -> set[int]:
    """The parameters of products that a kernel computes from weights as they are, by their ids."""
    linears = (cell for _, cell in layer.cells_and_names() if isinstance(cell, Linear))
    return {id(each) for linear in linears if getattr(linear, "kernel", None) for each in (linear.weight, linear.bias)}
