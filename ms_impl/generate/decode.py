"""Prefill and cached decoding of a batch, in compiled graphs of few shapes.

Everything that varies from prompt to prompt is rounded up: rows and cache length to powers of two, and a prompt runs
through the model in chunks of a few widths. The cells run in GRAPH_MODE, whichever mode MindSpore is in.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from functools import cached_property

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn

from ms_impl.errors import InputError
from ms_impl.generate.graph_cache import CachedGraph

NARROWEST, WIDEST = 64, 512  # columns of a prefill chunk; wider would need much memory for the attention scores
IMAGES_AT_ONCE = 8
DECODERS_KEPT = 4  # each holds a cache

Batch = Mapping[str, np.ndarray | None]


def power_of_two(number: int) -> int:
    """The smallest power of two that is not below ``number``."""
    return 1 << (number - 1).bit_length()


def chunks(length: int, capacity: int) -> Iterator[tuple[int, int]]:
    """First column and width of the chunks that cover ``length`` columns within the ``capacity`` of the cache.

    A chunk may reach over the end, and where that would pass the capacity, back over the chunk before it.
    """
    start = 0
    while start < length:
        width = min(max(power_of_two(length - start), NARROWEST), WIDEST, capacity)
        yield min(start, capacity - width), width
        start += width


class ImageEncoder(CachedGraph):
    """Pixels [N, 3, S, S] → features [N, Q, D] in fp32, compiled."""

    def __init__(self, model: nn.Cell):
        super().__init__(auto_prefix=False)
        self.model = model

    def construct(self, images: Tensor) -> Tensor:
        return self.model.encode_images(images).astype(ms.float32)


class Embedder(CachedGraph):
    """Token ids [B, T] and image features → embeddings [B, T, D], compiled."""

    def __init__(self, model: nn.Cell):
        super().__init__(auto_prefix=False)
        self.model = model

    def construct(self, input_ids: Tensor, features: Tensor | None, image_context_pos: Tensor | None) -> Tensor:
        return self.model.embed(input_ids, features, image_context_pos)


class PrefillStep(CachedGraph):
    """``model.step`` with a cache of its own, compiled; logits in fp32."""

    def __init__(self, model: nn.Cell, cache: nn.CellList):
        super().__init__(auto_prefix=False)
        self.model = model
        self.cache = cache

    def construct(self, hidden: Tensor, segment_ids: Tensor, columns: Tensor, table: Tensor, last: Tensor) -> Tensor:
        return self.model.step(hidden, segment_ids, columns, table, self.cache, last).astype(ms.float32)


class TokenGraph(CachedGraph):
    """The same for one column of tokens [B, 1], embedding and all."""

    def __init__(self, model: nn.Cell, cache: nn.CellList):
        super().__init__(auto_prefix=False)
        self.model = model
        self.cache = cache
        self.last = Tensor(np.zeros(1, np.int32))

    def construct(self, tokens: Tensor, segment_ids: Tensor, columns: Tensor, table: Tensor) -> Tensor:
        hidden = self.model.embed(tokens, None, None)
        return self.model.step(hidden, segment_ids, columns, table, self.cache, self.last).astype(ms.float32)


class TokenStep:
    """One column of tokens [B, 1] through a model and its cache by MindSpore's operators.

    Takes arrays, the prefill's rotary table among them, and returns logits, float32 [B, vocab].
    """

    def __init__(self, model: nn.Cell, cache: nn.CellList):
        self.graph = TokenGraph(model, cache)

    def __call__(
        self, tokens: np.ndarray, segment_ids: np.ndarray, columns: np.ndarray, table: np.ndarray
    ) -> np.ndarray:
        with static_graphs(self.graph.model):
            return self.graph(*map(Tensor, (tokens, segment_ids, columns, table))).asnumpy()


class Decoder:
    """Takes one batch after another, of up to ``rows`` rows, through a cache of ``capacity`` columns.

    ``prefill`` begins with a batch, each ``step`` adds one column to it.
    """

    def __init__(self, model: nn.Cell, encoder: ImageEncoder, embedder: Embedder, rows: int, capacity: int):
        self.model = model
        self.encoder = encoder
        self.embedder = embedder
        self.rows = rows
        self.capacity = capacity
        self.cache = model.new_cache(rows, capacity)
        self.prefill_step = PrefillStep(model, self.cache)

    @cached_property
    def token_step(self) -> Callable[..., np.ndarray]:
        """Made for the second token: finding or compiling the kernel takes time that the first has no use for."""
        return self.model.fused_token_step(self.cache) or TokenStep(self.model, self.cache)

    def prefill(self, batch: Batch) -> np.ndarray:
        """Logits, float32 [B, vocab], after the last column of a batch padded on the left.

        Args:
            batch: ``input_ids`` and ``segment_ids`` int32 [B, T]; ``images`` float32 [B, M, 3, S, S] and
                ``image_context_pos`` int32 [B, M, Q], or None.
        """
        self.batch_rows, self.length = batch["input_ids"].shape
        input_ids, self.segments = self._widened(batch["input_ids"]), self._widened(batch["segment_ids"])
        self.table = self.model.rotary_table(self.length)
        with static_graphs(self.model):
            features, places = self._features(batch)
            for start, width in chunks(self.length, self.capacity):
                columns = np.arange(start, start + width, dtype=np.int32)
                hidden = self._embed(input_ids[:, columns], features, places, start)
                last = np.array([min(self.length - 1 - start, width - 1)], dtype=np.int32)
                where = map(Tensor, (self.segments, columns, self.table, last))
                logits = self.prefill_step(hidden, *where)
        return self._checked(logits.asnumpy())

    def step(self, tokens: np.ndarray) -> np.ndarray:
        """Append one token to each row; logits, float32 [B, vocab], after it.

        Args:
            tokens: int [B].
        """
        column = np.array([self.length], dtype=np.int32)
        ids = np.zeros((self.rows, 1), dtype=np.int32)
        ids[: self.batch_rows, 0] = tokens
        self.segments[: self.batch_rows, self.length] = 1
        self.length += 1
        return self._checked(self.token_step(ids, self.segments, column, self.table))

    def rewind(self, length: int) -> None:
        """Forget all columns from ``length`` on, so that another answer can follow the prompt."""
        self.segments[:, length:] = 0
        self.length = length

    def _checked(self, logits: np.ndarray) -> np.ndarray:
        values = logits[: self.batch_rows]
        if not np.isfinite(values).all():
            for parameter in self.cache.get_parameters():  # or it would spoil the next batch
                parameter.set_data(ms.ops.zeros_like(parameter))
            raise InputError("the model's logits are not finite: numbers too large for its dtype; load it with another")
        return values

    def _widened(self, ids: np.ndarray) -> np.ndarray:
        """int32 [B, T] → [rows, capacity], zeros beyond."""
        wide = np.zeros((self.rows, self.capacity), dtype=np.int32)
        wide[: ids.shape[0], : ids.shape[1]] = ids
        return wide

    def _features(self, batch: Batch) -> tuple[np.ndarray | None, np.ndarray | None]:
        """Image features [rows · M, Q, D], and the columns int32 [rows, M, Q] where they belong; absent ones at T."""
        images, context = batch.get("images"), batch.get("image_context_pos")
        if images is None or (context == self.length).all():
            return None, None
        places = np.full((self.rows, *context.shape[1:]), self.length, dtype=np.int32)
        places[: self.batch_rows] = context
        present = np.flatnonzero(places[:, :, 0] < self.length)
        encoded = self._encode(images.reshape(-1, *images.shape[2:])[present])
        features = np.zeros((places[..., 0].size, *encoded.shape[1:]), encoded.dtype)
        features[present] = encoded
        return features, places

    def _encode(self, images: np.ndarray) -> np.ndarray:
        """Pixels [N, 3, S, S] → features [N, Q, D], a few images at a time."""
        done = []
        for start in range(0, len(images), IMAGES_AT_ONCE):
            block = images[start : start + IMAGES_AT_ONCE]
            padded = np.zeros((power_of_two(len(block)), *block.shape[1:]), block.dtype)
            padded[: len(block)] = block
            done.append(self.encoder(Tensor(padded)).asnumpy()[: len(block)])
        return np.concatenate(done)

    def _embed(self, ids: np.ndarray, features: np.ndarray | None, places: np.ndarray | None, start: int) -> Tensor:
        """Embeddings [rows, width, D] of a chunk that begins at column ``start``."""
        width = ids.shape[1]
        if features is not None:
            inside = (start <= places) & (places < min(start + width, self.length))
            if inside.any():
                shifted = np.where(inside, places - start, width).astype(np.int32)
                return self.embedder(Tensor(ids), Tensor(features), Tensor(shifted))
        return self.embedder(Tensor(ids), None, None)


class DecoderPool:
    """The decoders of one model by shape, so that none is compiled twice.

    One that is lent out is not in the pool: an answer that is still growing keeps its cache to itself.
    """

    def __init__(self, model: nn.Cell):
        self.model = model
        self.encoder = ImageEncoder(model)
        self.embedder = Embedder(model)
        self.idle: OrderedDict[tuple[int, int], Decoder] = OrderedDict()

    def lend(self, rows: int, columns: int) -> AbstractContextManager[Decoder]:
        """A decoder for at least ``rows`` rows and ``columns`` columns, prompt and answer.

        Raises:
            InputError: the model takes fewer columns.
        """
        limit = self.model.config.max_position_embeddings
        if columns > limit:
            raise InputError(f"prompt and answer need {columns} tokens, the model takes {limit}")
        return self._lend(power_of_two(rows), min(max(power_of_two(columns), NARROWEST), limit))

    @contextmanager
    def _lend(self, *shape: int) -> Iterator[Decoder]:
        decoder = self.idle.pop(shape, None) or Decoder(self.model, self.encoder, self.embedder, *shape)
        try:
            yield decoder
        finally:
            self.idle[shape] = decoder
            while len(self.idle) > DECODERS_KEPT:  # the one unused for longest goes
                self.idle.popitem(last=False)


@contextmanager
def static_graphs(model: nn.Cell) -> Iterator[None]:
    """GRAPH_MODE, and the model in eval mode, for the time being.

    ``ms.jit`` will not do: in PyNative mode its graphs go on using the weights of the day they were compiled, whatever
    a training step or ``set_data`` has done to them since (MindSpore 2.9, CPU).
    """
    mode, training = ms.get_context("mode"), model.training
    ms.set_context(mode=ms.GRAPH_MODE)
    if training:
        model.set_train(False)
    try:
        yield
    finally:
        ms.set_context(mode=mode)
        if training:
            model.set_train(True)
