"""Ovis2.5 whole, in MindSpore (the original's ``Ovis``)."""

from __future__ import annotations

from functools import partial

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn

from ms_impl import families
from ms_impl.cells.causal_decoder import Media
from ms_impl.cells.device import unless_on_ascend
from ms_impl.cells.linear_cross_entropy import LinearCrossEntropy
from ms_impl.cells.loss import causal_cross_entropy
from ms_impl.errors import InputError
from ms_impl.generate.decoder_model import DecoderParts, Rotary
from ms_impl.generate.encoder_parts import EncoderLayers, TableRows
from ms_impl.generate.mixin import GenerationMixin
from ms_impl.ovis2_5.config import Ovis2_5Config
from ms_impl.ovis2_5.language import LanguageModel
from ms_impl.ovis2_5.visual_tokenizer import VisualTable, VisualTokenizer
from ms_impl.train.freezing import freeze


class Ovis2_5(GenerationMixin, nn.Cell):
    """Ovis2.5 with its language model head. Parameters carry the checkpoint's names.

    Args:
        compute_dtype: dtype of activations. CPU computes in float32 and float16, Ascend also in bfloat16.
        param_dtype: dtype of the parameters; they are cast in the graph where it differs.
    """

    def __init__(self, config: Ovis2_5Config, compute_dtype: ms.Type = ms.float32, param_dtype: ms.Type | None = None):
        super().__init__()
        self.config = config
        self.compute_dtype = compute_dtype
        dtype = param_dtype or compute_dtype
        self.llm = LanguageModel(config.llm_config, compute_dtype, dtype)
        self.visual_tokenizer = VisualTokenizer(config, compute_dtype, dtype)
        self.vte = VisualTable(config, dtype)
        self.linear_cross_entropy = unless_on_ascend(LinearCrossEntropy)
        self.freeze(())

    def freeze(self, groups: tuple[str, ...]) -> None:
        """Train nothing in these module groups."""
        freeze(self, families.get("ovis2_5"), groups)

    def encode_visuals(self, patches: Tensor, segments: Tensor, places: Tensor, taps: Tensor) -> Tensor:
        """Rows of patches → embeddings of their visual tokens [N, L / 4, D]; the arguments as in ``VisionTower``."""
        features = self.visual_tokenizer.features(patches, segments, places, taps)
        return self.visual_tokenizer.embed(features, self.vte)

    def begin_visuals(self, patches: Tensor, segments: Tensor, places: Tensor, taps: Tensor) -> tuple[Tensor, ...]:
        """What stands before the tower's layers in ``encode_visuals``."""
        return self.visual_tokenizer.vit.vision_model.begin(patches, segments, places, taps)

    def end_visuals(self, x: Tensor) -> Tensor:
        """What stands behind them."""
        return self.visual_tokenizer.embed(self.visual_tokenizer.side_by_side(x), self.vte)

    def encoder_parts(self, encode: str) -> EncoderLayers | TableRows:
        """``encode_visuals`` or ``encode_indicators`` by its parts."""
        if encode == "encode_indicators":
            return TableRows(self.vte.weight, self.vte.words)
        encoder, end = self.visual_tokenizer.vit.vision_model.encoder, "end_visuals"
        widened = self.vte.weight.dtype != ms.float32 and self.vte.kernel is None
        if widened and self.visual_tokenizer.head[0].adapted is None:
            end = partial(self.visual_tokenizer.embed_on_host, table=self.vte)
        return EncoderLayers("begin_visuals", encoder.layers, end, encoder.beside)

    def encode_indicators(self, ids: Tensor) -> Tensor:
        """Indicators, int [N] from 0 on (image begin, image end, video begin, video end) → [N, 1, D]."""
        return self.vte.indicators(ids).expand_dims(1)

    def embed(self, input_ids: Tensor, media: Media = ()) -> Tensor:
        """Token embeddings [B, T, D]; for each (features [B · units, F, D], columns int32 [B, units, F]) the features
        stand at their columns. Column T is none."""
        return self.llm.model.embed(input_ids, media)

    def media(
        self, patches=None, patch_segments=None, patch_places=None, patch_taps=None, patch_columns=None,
        indicator_ids=None, indicator_columns=None,
    ) -> Media:  # fmt: skip
        """Features and columns of the media of a batch."""
        if patches is None:
            return ()
        rows = []
        for array in (patches, patch_segments, patch_places, patch_taps):
            rows.append(array.reshape(-1, *array.shape[2:]))
        indicators = self.encode_indicators(indicator_ids.reshape(-1))
        return (self.encode_visuals(*rows), patch_columns), (indicators, indicator_columns)

    def loss(self, logits: Tensor, labels: Tensor, loss_weights: Tensor | None = None) -> Tensor:
        """Shifted cross entropy, the weighted mean over labels ≠ −100: a scalar in fp32."""
        return causal_cross_entropy(logits, labels, loss_weights)

    def construct(
        self, input_ids, patches=None, patch_segments=None, patch_places=None, patch_taps=None, patch_columns=None,
        indicator_ids=None, indicator_columns=None, labels=None, segment_ids=None, position_ids=None, loss_weights=None,
    ) -> Tensor:  # fmt: skip
        """The loss where ``labels`` are given, else logits [B, T, vocab].

        Args:
            input_ids: int [B, T].
            patches … patch_taps: as ``VisionTower`` takes them, [B, R, …].
            patch_columns: int [B, R, L / 4], the column of each visual token; T for an absent one.
            indicator_ids: int [B, I], from 0 on.
            indicator_columns: int [B, I, 1].
            labels: int [B, T], −100 where nothing is learnt.
            segment_ids: int [B, T], 0 for padding; attention stays within equal ids. None: only the future is masked.
            position_ids: int [B, T]. None: the column index.
            loss_weights: fp32 [B, T], the weight of the label in the same column. None: every label counts 1.
        """
        media = self.media(
            patches, patch_segments, patch_places, patch_taps, patch_columns, indicator_ids, indicator_columns
        )
        hidden = self.llm.model(self.embed(input_ids, media), segment_ids, position_ids)
        if labels is not None and self.training and self.linear_cross_entropy is not None:
            head = self.llm.lm_head
            if head is None or head.adapted is None:
                return self.linear_cross_entropy(hidden, self.llm.head_weight(), labels, loss_weights)
        logits = self.llm.logits(hidden)
        return logits if labels is None else self.loss(logits, labels, loss_weights)

    def rotary(self, position_ids: np.ndarray, length: int) -> Rotary:
        """cos and sin, float32 [B, 1, T, head_dim], for positions int [B, T]; queries are not scaled."""
        return *self.llm.model.rotary(position_ids), None

    def new_cache(self, batch: int, length: int) -> nn.CellList:
        """An empty cache of ``length`` columns for every layer."""
        if length > self.config.max_position_embeddings:
            raise InputError(f"{length} tokens are more than the model's {self.config.max_position_embeddings}")
        return self.llm.model.new_cache(batch, length)

    def step(
        self, hidden: Tensor, segment_ids: Tensor, columns: Tensor, cos: Tensor, sin: Tensor, q_scale: Tensor | None,
        cache: nn.CellList, last: Tensor,
    ) -> Tensor:  # fmt: skip
        """Run hidden [B, T, D] through a cache of S columns, of which ``columns`` int32 [B, T] are written; logits
        [B, vocab] after that of a row's T which ``last`` int32 [B] names. ``segment_ids`` int32 [B, S]: 0 is hidden."""
        hidden = self.llm.model.step(hidden, segment_ids, columns, cos, sin, cache)
        return self.llm.model.last_logits(hidden, last, self.llm.logits)

    def decoder_parts(self) -> DecoderParts | None:
        """The decoder by its parameters; None where an adapter stands in place of a layer."""
        head = self.llm.lm_head
        return self.llm.model.parts(self.llm.model.embed_tokens if head is None else head)
