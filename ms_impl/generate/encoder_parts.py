"""How a model tells what its encoders of media are made of, so that they need not be compiled, nor cast, as a whole."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from mindspore import Parameter, nn


@dataclass(frozen=True)
class EncoderLayers:
    """An encoder cut before and behind its layers.

    Args:
        begin: the method of the model that takes the arrays and returns (x, …), what all layers need.
        layers: of one kind, each (x, …) → x.
        end: the method that makes features of the last x; or a function that does so with arrays, on the host.
        beside: which results of ``begin`` behind x each layer takes, by their places; empty: every layer takes all.
    """

    begin: str
    layers: Sequence[nn.Cell]
    end: str | Callable[[np.ndarray], np.ndarray]
    beside: Sequence[Sequence[int]] = ()


@dataclass(frozen=True)
class TableRows:
    """An encoder that takes ids, int [N], and looks up rows of a table from ``first`` on: [N, 1, width]."""

    table: Parameter
    first: int = 0
