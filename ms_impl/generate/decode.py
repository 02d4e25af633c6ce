"""Prefill and cached decoding of a batch, in compiled graphs of few shapes.

Everything that varies from prompt to prompt is rounded up: rows and cache length to powers of two, and a prompt runs
through the model in chunks of a few widths. The cells run in GRAPH_MODE, whichever mode MindSpore is in.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import cached_property
from typing import Literal

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn

from ms_impl.data.sample import MediaKind
from ms_impl.data.template import Template
from ms_impl.errors import InputError
from ms_impl.generate.features import Batch, FeatureEncoder, Features, power_of_two
from ms_impl.generate.graph_cache import CachedGraph
from ms_impl.generate.layer_frame import LayerFrame
from ms_impl.generate.prefill import Chunk, Embedder, LayeredPrefill, WholePrefill, layer_frame, tensors
from ms_impl.generate.prefixes import KeptPrefixes, PromptPrefix
from ms_impl.generate.static_graphs import static_graphs
from ms_impl.kernels.build import library
from ms_impl.kernels.decode_step import fused_token_step
from ms_impl.kernels.operators import use_kernels

NARROWEST, WIDEST = 32, 256  # columns of a prefill chunk; wider ones leave less of a prompt for the next turn to keep
JOINED = 128  # columns of a last chunk that is computed in one with the one before it: an image of 256 and a question
SMALLEST = 64  # columns of a cache
DECODERS_KEPT = 4  # each holds a cache

CORE = frozenset({"input_ids", "segment_ids", "position_ids", "next_positions"})  # of a batch, beside its media


def chunks(length: int, capacity: int) -> Iterator[tuple[int, int]]:
    """First column and width of the chunks that cover ``length`` columns within the ``capacity`` of the cache.

    All but the last are of the widest, so that prompts which begin alike have the same chunks as long as they do. A
    chunk may reach over the end, and where that would pass the capacity, back over the chunk before it.
    """
    start = 0
    while start < length:
        width = min(max(power_of_two(length - start), NARROWEST), WIDEST, capacity)
        yield min(start, capacity - width), width
        start += width


def cache_columns(columns: int) -> int:
    """Of a cache that holds so many: a power of two; above 1,024 also one and a half, where caches are large.

    Few sizes, as each has its graphs.
    """
    whole = max(power_of_two(columns), SMALLEST)
    return whole // 4 * 3 if whole > 1024 and columns <= whole // 4 * 3 else whole


def padding_side(template: Template) -> Literal["left", "right"]:
    """On which side the rows of a batch to answer are padded.

    On the right a row's columns, and with them the bits of its logits, are those of the row alone. On the left they
    follow the positions of a family whose positions count the padding.
    """
    return "left" if template.padding_shifts_positions else "right"


class TokenGraph(CachedGraph):
    """The same for one column of tokens [B, 1], embedding and all."""

    def __init__(self, model: nn.Cell, cache: nn.CellList):
        super().__init__(auto_prefix=False)
        self.model = model
        self.cache = cache
        self.last = Tensor(np.zeros(cache[0].shape[0], np.int32))

    def construct(
        self, tokens: Tensor, segment_ids: Tensor, columns: Tensor, cos: Tensor, sin: Tensor, q_scale: Tensor | None
    ) -> Tensor:
        hidden = self.model.embed(tokens)
        logits = self.model.step(hidden, segment_ids, columns, cos, sin, q_scale, self.cache, self.last)
        return logits.astype(ms.float32)


class TokenStep:
    """One column of tokens [B, 1] through a model and its cache by MindSpore's operators.

    Takes arrays, as ``model.step`` does, and returns logits, float32 [B, vocab].
    """

    def __init__(self, model: nn.Cell, cache: nn.CellList):
        self.graph = TokenGraph(model, cache)

    def __call__(
        self,
        tokens: np.ndarray,
        segment_ids: np.ndarray,
        columns: np.ndarray,
        cos: np.ndarray,
        sin: np.ndarray,
        q_scale: np.ndarray | None,
    ) -> np.ndarray:
        """int32 tokens [B, 1], segments [B, length] and columns [B, 1]; rotary float32 of one column of each row."""
        with static_graphs(self.graph.model):
            return self.graph(*tensors(tokens, segment_ids, columns, cos, sin, q_scale)).asnumpy()


class LayeredTokenStep:
    """The same layer by layer, where a graph of the whole would cast all weights at once."""

    def __init__(self, through: LayeredPrefill | WholePrefill):
        self.through = through

    def __call__(
        self,
        tokens: np.ndarray,
        segment_ids: np.ndarray,
        columns: np.ndarray,
        cos: np.ndarray,
        sin: np.ndarray,
        q_scale: np.ndarray | None,
    ) -> np.ndarray:
        """Arrays and result as of ``TokenStep``."""
        rows = len(tokens)
        rotary, last = (cos, sin, q_scale), np.zeros(rows, np.int32)
        (found,) = self.through([Chunk(0, tokens, None, segment_ids, columns, rotary, last, np.arange(rows))])
        return found[0]


class Decoder:
    """Takes one batch after another, of up to ``rows`` rows, through a cache of ``capacity`` columns.

    ``prefill`` begins with a batch, each ``step`` adds one token to each row, in the column after its last.
    """

    kept: KeptPrefixes | None = None  # where the pool looks for the beginnings of prompts

    def __init__(self, pool: DecoderPool, rows: int, capacity: int):
        self.pool = pool
        self.model = pool.model
        self.encoder = pool.encoder
        self.rows = rows
        self.capacity = capacity
        self.cache = pool.model.new_cache(rows, capacity)
        self.through = pool.prefill_through(self.cache)

    @cached_property
    def token_step(self) -> Callable[..., np.ndarray]:
        """Made for the second token: finding or compiling the kernel takes time that the first has no use for."""
        return self.pool.token_step(self.cache)

    def prefill(self, batch: Batch, kinds: Sequence[MediaKind] = ()) -> np.ndarray:
        """Logits, float32 [B, vocab], after the last token of each row.

        Args:
            batch: ``input_ids`` and ``segment_ids`` int32 [B, T]; ``position_ids`` int32 [B, T] or [B, axes, T], the
                columns where there are none; ``next_positions`` int32 [B], those of the tokens that follow, else the
                columns; and the arrays of media.
            kinds: the media that the batch may have: the template's.
        """
        *_, logits = self.prefilling(batch, kinds)
        return logits

    def prefilling(self, batch: Batch, kinds: Sequence[MediaKind] = ()) -> Iterator[np.ndarray]:
        """``prefill`` chunk by chunk, so that other rows can be decoded between two of them.

        Yields the logits after each chunk that was computed; the last ones are whole.
        """
        self.begin(batch, kinds)
        input_ids, positions = self._widened(batch["input_ids"]), self._positions(batch.get("position_ids"))
        logits = np.zeros((self.batch_rows, self.model.config.vocab_size), np.float32)
        with static_graphs(self.model):
            features = self.encoder(batch, kinds, self.length)
        prefix = PromptPrefix(self.kept if self.rows == 1 else None, self.cache)
        missing: list[tuple[Chunk, bytes]] = []
        for start, width in chunks(self.length, self.capacity):
            with static_graphs(self.model):
                chunk = self._chunk(input_ids, positions, features, start, width)
            if start + width < self.length and prefix.found(start, chunk.arrays):
                continue
            missing.append((chunk, prefix.last_name))
        computed = [chunk for chunk, _ in missing]
        if self.joins(computed[-2:]):
            before, last = computed[-2:]
            with static_graphs(self.model):
                both = self._chunk(input_ids, positions, features, before.start, before.width + last.width)
            computed[-2:] = [both]
        for step, found in enumerate(self.through(computed), start=1):
            for number, after in found.items():
                ending = computed[number].ending
                logits[ending] = after[ending]
            checked = self._checked(logits)
            if step == len(computed):
                for chunk, name in missing[:-1]:  # the last one is not whole
                    prefix.keep(name, chunk.start, chunk.width)
            yield checked

    def joins(self, computed: Sequence[Chunk]) -> bool:
        """Whether the last two chunks are computed as one: where a column has the same bits in any."""
        if len(computed) < 2 or not self.pool.columns_are_alone:
            return False
        before, last = computed
        return last.width <= JOINED and before.start + before.width == last.start

    def step(self, tokens: np.ndarray) -> np.ndarray:
        """Append one token to each row; logits, float32 [B, vocab], after it.

        Args:
            tokens: int [B].
        """
        self.tokens[: self.batch_rows, 0] = tokens
        self.segments[self.own, self.columns[: self.batch_rows, 0]] = self.own_segments
        rotary = self.model.rotary(self.positions, self.length)
        logits = self.token_step(self.tokens, self.segments, self.columns, *rotary)
        self.columns += 1
        self.positions += 1
        return self._checked(logits[: self.batch_rows])

    def rewind(self) -> None:
        """Forget all that follows the prompts, so that another answer can."""
        self.segments[np.arange(self.capacity) >= self.ends[:, None]] = 0
        self._go_back()

    def begin(self, batch: Batch, kinds: Sequence[MediaKind] = ()) -> None:
        """Take the shape of a batch, and where its rows end and go on."""
        media = {array.name for kind in kinds for array in kind.all_arrays}
        if unknown := {name for name, array in batch.items() if array is not None} - media - CORE:
            raise ValueError(f"a batch to decode has arrays of no kind: {', '.join(sorted(unknown))}")
        self.batch_rows, self.length = batch["input_ids"].shape
        self.segments = self._widened(batch["segment_ids"])
        used = self.segments != 0
        self.ends = np.where(used.any(1), self.capacity - used[:, ::-1].argmax(1), 1).astype(np.int32)
        self.next_positions = self.ends.copy()
        if batch.get("next_positions") is not None:
            self.next_positions[: self.batch_rows] = batch["next_positions"]
        self.tokens = np.zeros((self.rows, 1), np.int32)
        self.own = np.arange(self.batch_rows)
        self.own_segments = self.segments[self.own, self.ends[self.own] - 1]
        self._go_back()

    def _go_back(self) -> None:
        """To where the prompts end: the column and the position of each row's next token, int32 [rows, 1]."""
        self.columns, self.positions = self.ends[:, None].copy(), self.next_positions[:, None].copy()

    def _checked(self, logits: np.ndarray) -> np.ndarray:
        if not np.isfinite(logits).all():
            for parameter in self.cache.get_parameters():  # or it would spoil the next batch
                parameter.set_data(ms.ops.zeros_like(parameter))
            raise InputError("the model's logits are not finite: numbers too large for its dtype; load it with another")
        return logits

    def _widened(self, ids: np.ndarray) -> np.ndarray:
        """int32 [B, …, T] → [rows, …, capacity], zeros beyond."""
        wide = np.zeros((self.rows, *ids.shape[1:-1], self.capacity), dtype=np.int32)
        wide[: ids.shape[0], ..., : ids.shape[-1]] = ids
        return wide

    def _positions(self, position_ids: np.ndarray | None) -> np.ndarray:
        """int32 [rows, capacity], or [rows, axes, capacity]: a batch's own, else the columns."""
        if position_ids is not None:
            return self._widened(position_ids)
        return np.tile(np.arange(self.capacity, dtype=np.int32), (self.rows, 1))

    def _chunk(
        self, input_ids: np.ndarray, positions: np.ndarray, features: Features | None, start: int, width: int
    ) -> Chunk:
        """The columns from ``start`` on of a batch as wide as the cache."""
        here, last = slice(start, start + width), self.ends - 1 - start
        ends = (last >= 0) & (last < width) & (np.arange(self.rows) < self.batch_rows)
        return Chunk(
            start,
            input_ids[:, here],
            features and features.within(start, start + width, self.rows),
            self.segments,
            np.tile(np.arange(start, start + width, dtype=np.int32), (self.rows, 1)),
            self.model.rotary(positions[..., here], self.length),
            np.clip(last, 0, width - 1).astype(np.int32),
            np.flatnonzero(ends),
        )


class DecoderPool:
    """The decoders of one model by shape, so that none is compiled twice.

    One that is lent out is not in the pool: an answer that is still growing keeps its cache to itself.

    ``kept``: where prompts of one row look for their beginnings before they are computed; None: nowhere.
    """

    def __init__(self, model: nn.Cell):
        use_kernels(model)
        self.model = model
        self.encoder = FeatureEncoder(model)
        self.kept: KeptPrefixes | None = None
        self.idle: OrderedDict[tuple[int, int], Decoder] = OrderedDict()

    @cached_property
    def frame(self) -> LayerFrame | None:
        """For the decoder's layers; None where it is computed as a whole."""
        return layer_frame(self.model)

    @cached_property
    def columns_are_alone(self) -> bool:
        """Whether a column's keys and values do not depend on those beside it: the kernels'."""
        return self.frame is not None and library("linear") is not None

    @cached_property
    def embedder(self) -> Embedder:
        """Where it is computed as a whole."""
        return Embedder(self.model)

    def prefill_through(self, cache: nn.CellList) -> LayeredPrefill | WholePrefill:
        """What takes prompts through the decoder into a cache."""
        if self.frame is None:
            return WholePrefill(self.model, self.embedder, cache)
        return LayeredPrefill(self.model, self.frame, cache)

    def token_step(self, cache: nn.CellList) -> Callable[..., np.ndarray]:
        """What takes one column of tokens through the decoder and a cache: arrays as of ``TokenStep``."""
        if found := fused_token_step(self.model.decoder_parts(), cache):
            return found
        narrow = self.frame is not None and any(each.dtype != ms.float32 for each in self.model.get_parameters())
        return LayeredTokenStep(self.prefill_through(cache)) if narrow else TokenStep(self.model, cache)

    def lend(self, rows: int, columns: int) -> AbstractContextManager[Decoder]:
        """A decoder for at least ``rows`` rows and ``columns`` columns, prompt and answer.

        Raises:
            InputError: the model takes fewer columns.
        """
        limit = self.model.config.max_position_embeddings
        if columns > limit:
            raise InputError(f"prompt and answer need {columns} tokens, the model takes {limit}")
        return self._lend(power_of_two(rows), min(cache_columns(columns), limit))

    @contextmanager
    def _lend(self, *shape: int) -> Iterator[Decoder]:
        decoder = self.idle.pop(shape, None) or Decoder(self, *shape)
        decoder.kept = self.kept
        try:
            yield decoder
        finally:
            self.idle[shape] = decoder
            while len(self.idle) > DECODERS_KEPT:  # the one unused for longest goes
                self.idle.popitem(last=False)
