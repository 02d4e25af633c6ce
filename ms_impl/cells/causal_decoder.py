"""The decoder that families share whose checkpoints name its parts as Llama's does: what they call ``model``."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops

from ms_impl.cells.attention import attention
from ms_impl.cells.decoder import DecoderLayer, DecoderShape
from ms_impl.cells.kv_cache import LayerCache, take_column
from ms_impl.cells.linear import Embedding, Linear
from ms_impl.cells.media_features import merge_features
from ms_impl.cells.norms import RMSNorm
from ms_impl.cells.rotary import RotaryAngles, host_angles, sectioned_turns
from ms_impl.generate.decoder_model import DecoderLayerParts, DecoderParts, Projection

Media = tuple[tuple[Tensor, Tensor], ...]  # features and their columns, kind after kind


class CausalDecoder(nn.Cell):
    """Token embeddings, decoder layers and the last norm; the head is its owner's, tied or not.

    Args:
        sections: how many pairs of a head turn by each axis of the positions; None: they have one axis.
        compute_dtype: of activations; parameters of another ``dtype`` are cast in the graph.
    """

    of_bf16 = False  # whether kernels round the factors of products to bf16; then new caches are bf16, too

    def __init__(
        self, shape: DecoderShape, layers: int, vocab_size: int, rope_theta: float, sections: Sequence[int] | None,
        compute_dtype: ms.Type, dtype: ms.Type,
    ):  # fmt: skip
        super().__init__()
        self.shape = shape
        self.compute_dtype = compute_dtype
        self.embed_tokens = Embedding(vocab_size, shape.hidden_size, dtype)
        self.layers = nn.CellList([DecoderLayer(shape, dtype) for _ in range(layers)])
        self.norm = RMSNorm(shape.hidden_size, shape.eps, dtype)
        self.turns = sectioned_turns(shape.head_dim, rope_theta, sections)
        self.angles = RotaryAngles(shape.head_dim, rope_theta, sections)
        self.attention = attention(shape.heads, shape.head_dim)

    def embed(self, input_ids: Tensor, media: Media = ()) -> Tensor:
        """Token embeddings [B, T, D] with features of media at their columns.

        Args:
            input_ids: int [B, T].
            media: for each kind features [B · units, F, D] and columns int32 [B, units, F], T for none.
        """
        hidden = self.embed_tokens(input_ids).astype(self.compute_dtype)
        if not media:
            return hidden
        batch, _, width = hidden.shape
        features, columns = [], []
        for each, where in media:
            features.append(each.reshape(batch, -1, width).astype(hidden.dtype))
            columns.append(where.reshape(batch, -1))
        if len(features) == 1:
            return merge_features(hidden, features[0], columns[0])
        return merge_features(hidden, ops.concat(features, 1), ops.concat(columns, 1))

    def construct(
        self, hidden: Tensor, segment_ids: Tensor | None = None, position_ids: Tensor | None = None
    ) -> Tensor:
        """Embeddings [B, T, D] → the normalised last states [B, T, D].

        Args:
            segment_ids: int [B, T], 0 for padding; attention stays within equal ids. None: only the future is hidden.
            position_ids: int [B, T] or [B, axes, T]. None: the column index on every axis.
        """
        batch, length = hidden.shape[:2]
        columns = ops.arange(length).astype(ms.int32)
        if segment_ids is None:
            segment_ids = ops.ones((batch, length), ms.int32)
        if position_ids is None:
            position_ids = columns.reshape(1, -1)
        mask = self.attention.causal_mask(segment_ids, columns, self.shape.heads, hidden.dtype)
        cos, sin = self.angles(position_ids)
        for layer in self.layers:
            hidden = layer(hidden, mask, cos, sin)
        return self.norm(hidden)

    def new_cache(self, batch: int, length: int) -> nn.CellList:
        """An empty cache of ``length`` columns for every layer."""
        shape = (batch, self.shape.kv_heads, length, self.shape.head_dim)
        dtype = ms.bfloat16 if self.of_bf16 else self.compute_dtype
        return nn.CellList([LayerCache(*shape, dtype) for _ in self.layers])

    def step(
        self, hidden: Tensor, segment_ids: Tensor, columns: Tensor, cos: Tensor, sin: Tensor, cache: nn.CellList
    ) -> Tensor:
        """Run hidden [B, T, D] through a cache of S columns, written at ``columns`` int32 [B, T]: normalised states.

        Args:
            segment_ids: int32 [B, S]; 0 is hidden: padding, and columns not filled yet.
            cos, sin: fp32 [B, 1, T, head_dim].
        """
        mask = self.attention.causal_mask(segment_ids, columns, self.shape.heads, hidden.dtype)
        for layer, cached in zip(self.layers, cache):
            hidden = layer(hidden, mask, cos, sin, None, cached, columns)
        return self.norm(hidden)

    def last_logits(self, hidden: Tensor, last: Tensor, head: Callable[[Tensor], Tensor]) -> Tensor:
        """Logits [B, vocab] of states [B, T, D] after the column of each row that ``last`` int32 [B] names.

        Args:
            head: [rows, D] → [rows, vocab].
        """
        states = take_column(hidden, last)
        if hidden.shape[1] == 1:
            return head(states)
        # Row by row: products of few rows are summed in an order that depends on their number, and a row's bits must
        # not depend on the rows beside it. Those of a prompt's many columns are not.
        rows = []
        for row in range(states.shape[0]):
            rows.append(head(states[row : row + 1]))
        return ops.concat(rows, 0)

    def rotary(self, position_ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """cos and sin, float32 [B, 1, T, head_dim], of positions int [B, T] or [B, axes, T], on the host."""
        return host_angles(position_ids, self.turns)

    def parts(self, head: Linear | Embedding) -> DecoderParts | None:
        """The decoder by its parameters; None where an adapter stands in place of a layer."""
        cells = [head, *(cell for _, cell in self.cells_and_names())]
        if any(getattr(cell, "adapted", None) is not None for cell in cells):
            return None
        shape = self.shape
        return DecoderParts(
            self.embed_tokens.weight, [_layer_parts(layer) for layer in self.layers], self.norm.weight, head.weight,
            shape.heads, shape.kv_heads, shape.head_dim, shape.eps, self.layers, self.of_bf16,
        )  # fmt: skip


def _layer_parts(layer: DecoderLayer) -> DecoderLayerParts:
    mixer, mlp = layer.self_attn, layer.mlp
    named = {name: getattr(mixer, f"{name}_proj") for name in "qkvo"}
    named |= {name: getattr(mlp, f"{name}_proj") for name in ("gate", "up", "down")}
    return DecoderLayerParts(
        ln_1=layer.input_layernorm.weight,
        ln_2=layer.post_attention_layernorm.weight,
        q_norm=None if mixer.q_norm is None else mixer.q_norm.weight,
        k_norm=None if mixer.k_norm is None else mixer.k_norm.weight,
        **{name: Projection(linear.weight, linear.bias) for name, linear in named.items()},
    )
