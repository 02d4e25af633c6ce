"""Encoders of media, compiled: as a whole, or layer by layer."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn

from ms_impl.cells.device import on_ascend
from ms_impl.generate.encoder_parts import EncoderLayers, TableRows
from ms_impl.generate.graph_cache import CachedGraph
from ms_impl.generate.host_weights import rows
from ms_impl.generate.layer_frame import LayerFrame, one_kind

Encoder = Callable[..., np.ndarray]  # the arrays of one kind [N, …] → features float32 [N, F, D]


class EncoderGraph(CachedGraph):
    """The arrays of one kind [N, …] → features [N, F, D] in fp32, compiled."""

    def __init__(self, model: nn.Cell, encode: str):
        super().__init__(auto_prefix=False)
        self.model = model
        self.encode = encode

    def construct(self, *arrays: Tensor) -> Tensor:
        return getattr(self.model, self.encode)(*arrays).astype(ms.float32)


class BeginGraph(CachedGraph):
    """What stands before an encoder's layers, compiled: a tuple."""

    def __init__(self, model: nn.Cell, begin: str):
        super().__init__(auto_prefix=False)
        self.model = model
        self.begin = begin

    def construct(self, *arrays: Tensor) -> tuple[Tensor, ...]:
        return getattr(self.model, self.begin)(*arrays)


class EncoderLayerGraph(CachedGraph):
    """One layer, compiled."""

    def __init__(self, layer: nn.Cell):
        super().__init__(auto_prefix=False)
        self.layer = layer

    def construct(self, *given: Tensor) -> Tensor:
        return self.layer(*given)


class WholeEncoder:
    """One graph."""

    def __init__(self, model: nn.Cell, encode: str):
        self.graph = EncoderGraph(model, encode)

    def __call__(self, *arrays: np.ndarray) -> np.ndarray:
        return self.graph(*map(Tensor, arrays)).asnumpy()


class LayeredEncoder:
    """One graph before the layers, one that is each layer in turn, and one behind them."""

    def __init__(self, model: nn.Cell, parts: EncoderLayers):
        self.beside = parts.beside
        self.frame = LayerFrame(parts.layers, model.compute_dtype)
        self.begin = BeginGraph(model, parts.begin)
        self.layer = EncoderLayerGraph(self.frame.cell)
        self.end = EncoderGraph(model, parts.end) if isinstance(parts.end, str) else parts.end

    def __call__(self, *arrays: np.ndarray) -> np.ndarray:
        x, *shared = self.begin(*map(Tensor, arrays))
        run = object()
        for number in range(len(self.frame.layers)):
            self.frame.hold(number, run)
            taken = [shared[place] for place in self.beside[number]] if self.beside else shared
            x = self.layer(x, *taken)
        return self.end(x).asnumpy() if isinstance(self.end, nn.Cell) else self.end(x.asnumpy())


def rows_encoder(parts: TableRows) -> Encoder:
    """A look-up on the host."""

    def encode(ids: np.ndarray) -> np.ndarray:
        return rows(parts.table, ids + parts.first)[:, None]

    return encode


def encoder(model: nn.Cell, encode: str) -> Encoder:
    """What computes the model's method ``encode`` of arrays, in the mode in which it is called.

    It is one graph on Ascend, and where the model does not tell its layers or they differ, by an adapter, for one.
    """
    parts = None if on_ascend() else model.encoder_parts(encode)
    if isinstance(parts, TableRows):
        return rows_encoder(parts)
    if parts is None or not one_kind(parts.layers):
        return WholeEncoder(model, encode)
    return LayeredEncoder(model, parts)


def padded(arrays: Sequence[np.ndarray], count: int) -> list[np.ndarray]:
    """Arrays [n, …] with zeros behind: [count, …]."""
    return [np.concatenate((each, np.zeros((count - len(each), *each.shape[1:]), each.dtype))) for each in arrays]
