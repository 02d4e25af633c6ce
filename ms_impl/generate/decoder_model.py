"""What decoding asks of a family's model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn

from ms_impl.generate.encoder_parts import EncoderLayers, TableRows

Rotary = tuple[np.ndarray, np.ndarray, np.ndarray | None]  # cos, sin, q_scale


@dataclass(frozen=True)
class Projection:
    """Rows of a weight matrix [out, in], and its bias; ``first`` is the row that they begin with (a packed matrix)."""

    weight: Parameter
    bias: Parameter | None = None
    first: int = 0


@dataclass(frozen=True)
class DecoderLayerParts:
    """One pre-norm decoder layer by its parameters, for kernels. RMS norms; a gated MLP, silu(gate) · up."""

    ln_1: Parameter
    q: Projection
    k: Projection
    v: Projection
    o: Projection
    ln_2: Parameter
    gate: Projection
    up: Projection
    down: Projection
    q_norm: Parameter | None = None
    k_norm: Parameter | None = None


@dataclass(frozen=True)
class DecoderParts:
    """A decoder by its parameters: what a kernel needs to make one step of any family's."""

    embedding: Parameter  # [vocab, width]
    layers: Sequence[DecoderLayerParts]
    norm: Parameter
    head: Parameter  # [vocab, width]; the embedding itself where they are tied
    heads: int
    kv_heads: int
    head_dim: int
    eps: float
    # The same layers as cells, each called with (hidden, mask, cos, sin, q_scale, cache, columns) as ``step`` has them.
    cells: Sequence[nn.Cell] = ()
    of_bf16: bool = False  # whether kernels round the factors of products to bf16


class DecoderModel(Protocol):
    """A model with a decoder that ``ms_impl.generate`` can drive. Nothing of a request is kept on it.

    Each row of a batch has columns of its own in the cache, so that where a row stands, and with that the bits of its
    logits, does not depend on the rows beside it: rows are padded on the right, unless padding shifts their positions.

    For every ``MediaKind`` of its template it has the method that the kind's ``encode`` names.
    """

    config: Any  # max_position_embeddings, vocab_size
    compute_dtype: ms.Type

    def embed(self, input_ids: Tensor, media: tuple[tuple[Tensor, Tensor], ...] = ()) -> Tensor:
        """Token embeddings [B, T, D]; for each (features [B · units, F, D], columns int32 [B, units, F]) the features
        stand at their columns. Column T is none."""

    def rotary(self, position_ids: np.ndarray, length: int) -> Rotary:
        """For positions int32 [B, T], the same on every axis, or [B, axes, T], after or in a prompt of ``length``
        columns: cos and sin, float32 [B, 1, T, head_dim], and what queries are multiplied by, float32 [B, 1, T, 1] or
        None. A row's numbers do not depend on the other rows."""

    def new_cache(self, batch: int, length: int) -> nn.CellList:
        """An empty cache of ``length`` columns for every layer."""

    def step(
        self, hidden: Tensor, segment_ids: Tensor, columns: Tensor, cos: Tensor, sin: Tensor, q_scale: Tensor | None,
        cache: nn.CellList, last: Tensor,
    ) -> Tensor:  # fmt: skip
        """Run hidden [B, T, D] through a cache of S columns, of which ``columns`` int32 [B, T] are written; logits
        [B, vocab] after that of a row's T which ``last`` int32 [B] names (``CausalDecoder.last_logits``).
        ``segment_ids`` int32 [B, S]: 0 is hidden. cos, sin and q_scale as ``rotary`` gives them."""

    def encoder_parts(self, encode: str) -> EncoderLayers | TableRows | None:
        """What the encoder is made of that is the method ``encode``; None: it is computed as a whole."""

    def decoder_parts(self) -> DecoderParts | None:
        """The decoder by its parameters; None: it is decoded by its own graph alone."""
