"""A prompt through the decoder, in chunks of a few widths: layer by layer, or by one graph of the whole."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn
from mindspore.nn.utils import no_init_parameters

from ms_impl.cells.attention import attention
from ms_impl.cells.device import on_ascend
from ms_impl.cells.kv_cache import LayerCache
from ms_impl.generate.decoder_model import DecoderParts, Rotary
from ms_impl.generate.graph_cache import CachedGraph
from ms_impl.generate.host_weights import content, product, rows, widened
from ms_impl.generate.layer_frame import LayerFrame, one_kind
from ms_impl.generate.static_graphs import static_graphs
from ms_impl.kernels.decode_step import fused_logits
from ms_impl.kernels.operators import use_kernels

Found = dict[int, np.ndarray]  # logits, float32 [rows, vocab], by the chunk's number


@dataclass(frozen=True)
class Chunk:
    """Some columns of all rows, and what a decoder takes beside them; all int32 but features and rotary."""

    start: int  # the first column
    ids: np.ndarray  # [rows, width]
    features: tuple[np.ndarray, np.ndarray] | None  # as ``Features.within`` gives them
    segments: np.ndarray  # [rows, capacity]
    columns: np.ndarray  # [rows, width]
    rotary: Rotary
    last: np.ndarray  # [rows]: after which of the columns the logits of a row are wanted,
    ending: np.ndarray  # of these rows, which end here

    @property
    def width(self) -> int:
        return self.ids.shape[1]

    @property
    def arrays(self) -> tuple[np.ndarray | None, ...]:
        """All that a whole chunk's keys and values are computed from, beside the chunks before it."""
        here = self.segments[:, self.start : self.start + self.width]
        return self.ids, here, *(self.features or (None, None)), *self.rotary

    @cached_property
    def where(self) -> list[Tensor | None]:
        """What each layer takes: segments, columns and rotary; no scale of queries where it is 1."""
        cos, sin, q_scale = self.rotary
        if q_scale is not None and (q_scale == 1).all():
            q_scale = None
        return tensors(self.segments, self.columns, cos, sin, q_scale)


def tensors(*arrays: np.ndarray | None) -> list[Tensor | None]:
    """Each array as a tensor."""
    return [None if array is None else Tensor(array) for array in arrays]


class Embedder(CachedGraph):
    """Token ids [B, T], and features [B, T, D] with their columns [B, 1, T] → embeddings [B, T, D], compiled."""

    def __init__(self, model: nn.Cell):
        super().__init__(auto_prefix=False)
        self.model = model

    def construct(self, input_ids: Tensor, features: Tensor | None, columns: Tensor | None) -> Tensor:
        return self.model.embed(input_ids, () if features is None else ((features, columns),))


class PrefillStep(CachedGraph):
    """``model.step`` with a cache of its own, compiled; logits in fp32."""

    def __init__(self, model: nn.Cell, cache: nn.CellList):
        super().__init__(auto_prefix=False)
        self.model = model
        self.cache = cache

    def construct(
        self, hidden: Tensor, segment_ids: Tensor, columns: Tensor, cos: Tensor, sin: Tensor, q_scale: Tensor | None,
        last: Tensor,
    ) -> Tensor:  # fmt: skip
        logits = self.model.step(hidden, segment_ids, columns, cos, sin, q_scale, self.cache, last)
        return logits.astype(ms.float32)


class WholePrefill:
    """Chunk after chunk through graphs of the whole decoder."""

    def __init__(self, model: nn.Cell, embedder: Embedder, cache: nn.CellList):
        self.model = model
        self.embedder = embedder
        self.step = PrefillStep(model, cache)

    def __call__(self, chunks: Sequence[Chunk]) -> Iterator[Found]:
        """The logits of chunks in which rows end, as they come; as many steps as there are chunks."""
        for number, chunk in enumerate(chunks):
            with static_graphs(self.model):
                hidden = self.embedder(*tensors(chunk.ids, *(chunk.features or (None, None))))
                found = self.step(hidden, *chunk.where, Tensor(chunk.last))
                logits = {number: found.asnumpy()} if len(chunk.ending) else {}
            yield logits


class DecoderLayerGraph(CachedGraph):
    """One decoder layer with a cache, compiled; the mask is made anew for each, from what is much smaller."""

    def __init__(self, layer: nn.Cell, cache: LayerCache, heads: int, head_dim: int):
        super().__init__(auto_prefix=False)
        self.layer = layer
        self.cache = cache
        self.heads = heads
        self.attention = attention(heads, head_dim)
        use_kernels(self)

    def construct(
        self, hidden: Tensor, segment_ids: Tensor, columns: Tensor, cos: Tensor, sin: Tensor, q_scale: Tensor | None
    ) -> Tensor:
        mask = self.attention.causal_mask(segment_ids, columns, self.heads, hidden.dtype)
        return self.layer(hidden, mask, cos, sin, q_scale, self.cache, columns)


class LayeredPrefill:
    """All chunks through a layer before the next: its weights are read once a prompt, and one layer is compiled.

    Embeddings, last norm and head are computed on the host, from the rows and pieces that are needed.
    """

    def __init__(self, model: nn.Cell, frame: LayerFrame, cache: nn.CellList):
        self.model = model
        self.parts = parts = model.decoder_parts()
        self.frame = frame
        self.cache = cache
        with no_init_parameters():
            self.place = LayerCache(*cache[0].shape, cache[0].keys.dtype)  # where each layer's cache stands in turn
        self.graph = DecoderLayerGraph(frame.cell, self.place, parts.heads, parts.head_dim)

    def __call__(self, chunks: Sequence[Chunk]) -> Iterator[Found]:
        """Yields as often as there are chunks, logits in the end."""
        hidden = [Tensor(self.embedded(chunk)) for chunk in chunks]
        run, done, count = object(), 0, len(self.frame.layers)
        for layer in range(count):
            for number, chunk in enumerate(chunks):
                hidden[number] = self._through(layer, hidden[number], chunk, run)
                done += 1
                if done % count == 0 and done < count * len(chunks):
                    yield {}
        yield {number: self._logits(hidden[number], chunk) for number, chunk in enumerate(chunks) if len(chunk.ending)}

    def embedded(self, chunk: Chunk) -> np.ndarray:
        """Embeddings of a chunk, with features at their columns: [rows, width, D]."""
        hidden = rows(self.parts.embedding, chunk.ids)
        if chunk.features is not None:
            values, columns = chunk.features
            row, number = np.nonzero(columns[:, 0] < chunk.ids.shape[1])
            hidden[row, columns[row, 0, number]] = values[row, number]
        return hidden.astype(ms.dtype_to_nptype(self.model.compute_dtype), copy=False)

    def _through(self, layer: int, hidden: Tensor, chunk: Chunk, run: object) -> Tensor:
        """A chunk through a layer, whose cache takes its keys and values."""
        with static_graphs(self.model):
            self.frame.hold(layer, run)
            self.place.keys.set_data(self.cache[layer].keys)
            self.place.values.set_data(self.cache[layer].values)
            return self.graph(hidden, *chunk.where)

    def _logits(self, hidden: Tensor, chunk: Chunk) -> np.ndarray:
        states = hidden.asnumpy()[np.arange(len(chunk.last)), chunk.last].astype(np.float32)
        return host_logits(self.parts, states)


def host_logits(parts: DecoderParts, states: np.ndarray) -> np.ndarray:
    """Logits of the last layer's outputs, float32 [N, D] → [N, vocab]: by the kernel where the head has 16 bits."""
    sixteen = parts.head.dtype != ms.float32
    if sixteen and (found := fused_logits(parts, states)) is not None:
        return found
    scale = 1 / np.sqrt(np.square(states).mean(-1, keepdims=True, dtype=np.float32) + np.float32(parts.eps))
    return product(states * scale * widened(content(parts.norm)), parts.head)


def layer_frame(model: nn.Cell) -> LayerFrame | None:
    """The frame of a model's decoder layers; None where it is computed by graphs of the whole.

    That is on Ascend, and of a model whose layers are not told or differ: by an adapter, for one.
    """
    parts = None if on_ascend() else model.decoder_parts()
    if parts is None or not one_kind(parts.cells):
        return None
    return LayerFrame(parts.cells, model.compute_dtype)
