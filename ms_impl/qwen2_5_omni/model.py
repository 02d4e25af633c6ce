"""Qwen2.5-Omni's thinker in MindSpore (``Qwen2_5OmniThinkerForConditionalGeneration`` of transformers 4.57.1)."""

from __future__ import annotations

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn

from ms_impl import families
from ms_impl.cells.causal_decoder import CausalDecoder, Media
from ms_impl.cells.decoder import DecoderShape
from ms_impl.cells.device import unless_on_ascend
from ms_impl.cells.linear import Linear
from ms_impl.cells.linear_cross_entropy import LinearCrossEntropy
from ms_impl.cells.loss import causal_cross_entropy
from ms_impl.errors import InputError
from ms_impl.generate.decoder_model import DecoderParts, Rotary
from ms_impl.generate.encoder_parts import EncoderLayers
from ms_impl.generate.mixin import GenerationMixin
from ms_impl.qwen2_5_omni.audio import AudioTower
from ms_impl.qwen2_5_omni.config import Qwen2_5OmniConfig, TextConfig
from ms_impl.qwen2_5_omni.vision import VisionTower
from ms_impl.train.freezing import freeze


def decoder_shape(config: TextConfig) -> DecoderShape:
    """The layers of the language model."""
    return DecoderShape(
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size,
        heads=config.num_attention_heads,
        kv_heads=config.num_key_value_heads,
        head_dim=config.head_dim,
        eps=config.rms_norm_eps,
        qkv_bias=True,
    )


class Qwen2_5OmniThinker(GenerationMixin, nn.Cell):
    """Text, images, videos and sounds in, text out. Parameters carry Hugging Face's names without ``thinker.``.

    Args:
        compute_dtype: dtype of activations. CPU computes in float32 and float16, Ascend also in bfloat16.
        param_dtype: dtype of the parameters; they are cast in the graph where it differs.
    """

    def __init__(
        self, config: Qwen2_5OmniConfig, compute_dtype: ms.Type = ms.float32, param_dtype: ms.Type | None = None
    ):
        super().__init__()
        self.config = config
        self.compute_dtype = compute_dtype
        dtype, text = param_dtype or compute_dtype, config.text_config
        self.audio_tower = AudioTower(config.audio_config, compute_dtype, dtype)
        self.visual = VisionTower(config.vision_config, compute_dtype, dtype)
        self.model = CausalDecoder(
            decoder_shape(text), text.num_hidden_layers, text.vocab_size, text.rope_theta,
            text.rope_scaling.mrope_section, compute_dtype, dtype,
        )  # fmt: skip
        self.lm_head = Linear(text.hidden_size, text.vocab_size, bias=False, dtype=dtype)
        self.linear_cross_entropy = unless_on_ascend(LinearCrossEntropy)
        self.freeze(())

    def freeze(self, groups: tuple[str, ...]) -> None:
        """Train nothing in these module groups, nor what no computation uses."""
        freeze(self, families.get("qwen2_5_omni"), groups)

    def encode_patches(self, patches: Tensor, segments: Tensor, places: Tensor) -> Tensor:
        """Rows of patches [N, L, patch features] → features [N, L / 4, D]; see ``VisionTower``."""
        return self.visual(patches, segments, places)

    def encode_audio(self, mel: Tensor, frames: Tensor) -> Tensor:
        """Chunks of mel frames [N, bins, 200] → features [N, 50, D]; see ``AudioTower``."""
        return self.audio_tower(mel, frames)

    def begin_patches(self, patches: Tensor, segments: Tensor, places: Tensor) -> tuple[Tensor, ...]:
        """What stands before the blocks in ``encode_patches``."""
        return self.visual.begin(patches, segments, places)

    def end_patches(self, x: Tensor) -> Tensor:
        """What stands behind them."""
        return self.visual.merger(x)

    def begin_audio(self, mel: Tensor, frames: Tensor) -> tuple[Tensor, ...]:
        """What stands before the layers in ``encode_audio``."""
        return self.audio_tower.begin(mel, frames)

    def end_audio(self, x: Tensor) -> Tensor:
        """What stands behind them."""
        return self.audio_tower.end(x)

    def encoder_parts(self, encode: str) -> EncoderLayers:
        """``encode_patches`` or ``encode_audio`` by its parts."""
        if encode == "encode_audio":
            return EncoderLayers("begin_audio", self.audio_tower.layers, "end_audio")
        return EncoderLayers("begin_patches", self.visual.blocks, "end_patches", self.visual.beside)

    def embed(self, input_ids: Tensor, media: Media = ()) -> Tensor:
        """Token embeddings [B, T, D]; for each of media features [B · units, F, D] and columns int32 [B, units, F]."""
        return self.model.embed(input_ids, media)

    def media_features(
        self, patches=None, patch_segments=None, patch_places=None, patch_columns=None, mel=None, mel_frames=None,
        mel_columns=None,
    ) -> Media:  # fmt: skip
        """Features and columns of the kinds that are given; arguments as in ``construct``."""
        media = ()
        if patches is not None:
            rows = (flat(patches), flat(patch_segments), flat(patch_places))
            media += ((self.encode_patches(*rows), patch_columns),)
        if mel is not None:
            media += ((self.encode_audio(flat(mel), flat(mel_frames)), mel_columns),)
        return media

    def construct(
        self, input_ids, patches=None, patch_segments=None, patch_places=None, patch_columns=None, mel=None,
        mel_frames=None, mel_columns=None, labels=None, segment_ids=None, position_ids=None, loss_weights=None,
    ) -> Tensor:  # fmt: skip
        """The loss where ``labels`` are given, else logits [B, T, vocab].

        Args:
            input_ids: int [B, T].
            patches: fp32 [B, R, L, patch features], rows of patches of images and videos; None: no such media.
            patch_segments: int [B, R, L, 2], frame and window, 0 for padding.
            patch_places: int [B, R, L, 2], row and column in the frame.
            patch_columns: int [B, R, L / 4], the column of each merged unit; T for none.
            mel: fp32 [B, C, bins, 200], chunks of mel frames; None: no sounds.
            mel_frames: int [B, C], the real frames of each chunk.
            mel_columns: int [B, C, 50], the column of each feature; T for none.
            labels: int [B, T], −100 where nothing is learnt.
            segment_ids: int [B, T], 0 for padding; attention stays within equal ids. None: only the future is masked.
            position_ids: int [B, 3, T]: time, height, width. None: the column index.
            loss_weights: fp32 [B, T], the weight of the label in the same column. None: every label counts 1.
        """
        media = self.media_features(patches, patch_segments, patch_places, patch_columns, mel, mel_frames, mel_columns)
        hidden = self.model(self.embed(input_ids, media), segment_ids, position_ids)
        if (
            labels is not None
            and self.training
            and self.linear_cross_entropy is not None
            and self.lm_head.adapted is None
        ):
            return self.linear_cross_entropy(hidden, self.lm_head.weight, labels, loss_weights)
        logits = self.lm_head(hidden)
        return logits if labels is None else causal_cross_entropy(logits, labels, loss_weights)

    def rotary(self, position_ids: np.ndarray, length: int) -> Rotary:
        """cos and sin, float32 [B, 1, T, head_dim], of positions int32 [B, T] or [B, 3, T]; queries are not scaled."""
        return (*self.model.rotary(position_ids), None)

    def new_cache(self, batch: int, length: int) -> nn.CellList:
        """An empty cache of ``length`` columns for every layer."""
        if length > self.config.max_position_embeddings:
            raise InputError(f"{length} tokens are more than the model's {self.config.max_position_embeddings}")
        return self.model.new_cache(batch, length)

    def step(
        self, hidden: Tensor, segment_ids: Tensor, columns: Tensor, cos: Tensor, sin: Tensor, q_scale: Tensor | None,
        cache: nn.CellList, last: Tensor,
    ) -> Tensor:  # fmt: skip
        """Run hidden [B, T, D] through the cache of S columns; logits [B, vocab] after one column of each row.

        Args:
            segment_ids: int [B, S], 0 for padding and for columns not filled yet.
            columns: int [B, T], those that are written.
            cos, sin: fp32 [B, 1, T, head_dim] of the columns' positions.
            q_scale: None.
            last: int [B], after which of its T columns each row's logits are.
        """
        states = self.model.step(hidden, segment_ids, columns, cos, sin, cache)
        return self.model.last_logits(states, last, self.lm_head)

    def decoder_parts(self) -> DecoderParts | None:
        """The decoder by its parameters; None where an adapter stands in place of a layer."""
        return self.model.parts(self.lm_head)


def flat(array: Tensor) -> Tensor:
    """[B, units, …] → [B · units, …]."""
    return array.reshape(-1, *array.shape[2:])
