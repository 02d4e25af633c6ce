"""Configuration of Qwen2.5-Omni's thinker, read from Hugging Face's config.json. No framework is imported here.

Two files describe the same thinker: that of a whole Omni, whose ``thinker_config`` it is and in whose weights every
name begins with ``thinker.``; and that of a thinker alone, which is the table itself, with names that have no prefix.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from ms_impl.config import (
    MAX_FFN_WIDTH,
    MAX_HEADS,
    MAX_LAYERS,
    MAX_POSITIONS,
    MAX_VOCABULARY,
    MAX_WIDTH,
    ConfigSection,
    numbers,
    real,
    section,
    whole,
)
from ms_impl.errors import InputError, quote

MODEL = "Qwen2.5-Omni"
THINKER = "thinker_config"  # the key of a whole Omni's config.json
THINKER_PREFIX = "thinker."  # what its names begin with


@dataclass(frozen=True)
class AudioConfig(ConfigSection):
    """``audio_config``: a Whisper encoder over chunks of 2 · ``n_window`` mel frames."""

    MODEL: ClassVar[str] = MODEL
    FIXED: ClassVar[Mapping[str, Any]] = {
        "activation_function": "gelu", "scale_embedding": False,
        "dropout": 0.0, "attention_dropout": 0.0, "activation_dropout": 0.0,
    }  # fmt: skip

    num_mel_bins: int = whole(1, 4096, 128)
    encoder_layers: int = whole(1, MAX_LAYERS, 32)
    encoder_attention_heads: int = whole(1, MAX_HEADS, 20)
    encoder_ffn_dim: int = whole(1, MAX_FFN_WIDTH, 5120)
    d_model: int = whole(4, MAX_WIDTH, 1280)
    max_source_positions: int = whole(1, 1 << 16, 1500)  # rows of the sinusoid table, which is not stored
    n_window: int = whole(2, 1 << 15, 100)
    output_dim: int = whole(1, MAX_WIDTH, 3584)
    initializer_range: float = real(0, 10, 0.02)

    @property
    def head_dim(self) -> int:
        return self.d_model // self.encoder_attention_heads

    @property
    def chunk_frames(self) -> int:
        """Mel frames that attend to one another."""
        return 2 * self.n_window

    @property
    def chunk_tokens(self) -> int:
        """Features of a full chunk: the second convolution and the pooling each halve it."""
        return self.n_window // 2

    def rules(self) -> Mapping[str, bool]:
        return {
            "d_model must be a multiple of encoder_attention_heads": self.d_model % self.encoder_attention_heads == 0,
            "d_model must be even": self.d_model % 2 == 0,
            "n_window must be even": self.n_window % 2 == 0,
            "n_window must not exceed max_source_positions": self.n_window <= self.max_source_positions,
        }


@dataclass(frozen=True)
class VisionConfig(ConfigSection):
    """``vision_config``: patches in 2 × 2 units, windows of ``window_size`` pixels, full attention in some blocks."""

    MODEL: ClassVar[str] = MODEL
    FIXED: ClassVar[Mapping[str, Any]] = {"hidden_act": "silu"}

    hidden_size: int = whole(1, MAX_WIDTH)  # required: Hugging Face's default is not the released width
    depth: int = whole(1, MAX_LAYERS, 32)
    intermediate_size: int = whole(1, MAX_FFN_WIDTH, 3420)
    num_heads: int = whole(1, MAX_HEADS, 16)
    in_channels: int = whole(1, 64, 3)
    patch_size: int = whole(1, 1024, 14)
    temporal_patch_size: int = whole(1, 64, 2)
    spatial_merge_size: int = whole(1, 64, 2)
    window_size: int = whole(1, 1 << 16, 112)
    out_hidden_size: int = whole(1, MAX_WIDTH, 3584)
    fullatt_block_indexes: tuple[int, ...] = numbers(0, MAX_LAYERS - 1, MAX_LAYERS, (7, 15, 23, 31))
    initializer_range: float = real(0, 10, 0.02)

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_heads

    @property
    def patch_features(self) -> int:
        """Numbers of a flattened patch: channels, frames, rows, columns."""
        return self.in_channels * self.temporal_patch_size * self.patch_size**2

    @property
    def merged_width(self) -> int:
        """Width of a merged unit of ``spatial_merge_size``² patches."""
        return self.hidden_size * self.spatial_merge_size**2

    @property
    def window_patches(self) -> int:
        """Patches along a side of a window: whole merged units."""
        return self.window_size // self.patch_size // self.spatial_merge_size * self.spatial_merge_size

    def rules(self) -> Mapping[str, bool]:
        return {
            "hidden_size must be a multiple of num_heads": self.hidden_size % self.num_heads == 0,
            "hidden_size / num_heads must be a multiple of 4": self.head_dim % 4 == 0,
            "spatial_merge_size must be 2": self.spatial_merge_size == 2,
            "window_size must be at least patch_size × spatial_merge_size": self.window_patches > 0,
            "fullatt_block_indexes must be below depth": all(i < self.depth for i in self.fullatt_block_indexes),
        }


@dataclass(frozen=True)
class RopeScaling(ConfigSection):
    """``rope_scaling``: how many frequencies of a head turn with time, height and width."""

    MODEL: ClassVar[str] = MODEL
    FIXED: ClassVar[Mapping[str, Any]] = {"rope_type": ("default", "mrope"), "type": ("default", "mrope")}

    mrope_section: tuple[int, ...] = numbers(0, 4096, 3)

    def rules(self) -> Mapping[str, bool]:
        return {"mrope_section must have three numbers": len(self.mrope_section) == 3}


@dataclass(frozen=True)
class TextConfig(ConfigSection):
    """``text_config``: a Qwen2 decoder, with biases on query, key and value, whose positions have three axes."""

    MODEL: ClassVar[str] = MODEL
    FIXED: ClassVar[Mapping[str, Any]] = {
        "hidden_act": "silu", "tie_word_embeddings": False, "use_sliding_window": False, "attention_dropout": 0.0,
    }  # fmt: skip

    vocab_size: int = whole(1, MAX_VOCABULARY)
    hidden_size: int = whole(1, MAX_WIDTH)
    intermediate_size: int = whole(1, MAX_FFN_WIDTH)
    num_hidden_layers: int = whole(1, MAX_LAYERS)
    num_attention_heads: int = whole(1, MAX_HEADS)
    num_key_value_heads: int = whole(1, MAX_HEADS)
    rope_scaling: RopeScaling = section(RopeScaling)
    rope_theta: float = real(1, 1e12, 1000000.0)
    rms_norm_eps: float = real(0, 1, 1e-6)
    max_position_embeddings: int = whole(1, MAX_POSITIONS, 32768)
    initializer_range: float = real(0, 10, 0.02)

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_attention_heads

    @property
    def kv_width(self) -> int:
        """Width of all key heads together."""
        return self.num_key_value_heads * self.head_dim

    def rules(self) -> Mapping[str, bool]:
        heads = self.num_attention_heads
        return {
            "hidden_size must be a multiple of num_attention_heads": self.hidden_size % heads == 0,
            "num_attention_heads must be a multiple of num_key_value_heads": heads % self.num_key_value_heads == 0,
            "rope_scaling.mrope_section must add up to half of hidden_size / num_attention_heads":
                2 * sum(self.rope_scaling.mrope_section) == self.head_dim,
        }  # fmt: skip


@dataclass(frozen=True)
class Qwen2_5OmniConfig(ConfigSection):
    """The thinker.

    Attributes:
        whole_model: the file was a whole Omni's: the names of its weights begin with ``thinker.``, and ``talker.*``
            and ``token2wav.*`` may stand beside them.
    """

    MODEL: ClassVar[str] = MODEL
    FIXED: ClassVar[Mapping[str, Any]] = {"tie_word_embeddings": False}

    audio_config: AudioConfig = section(AudioConfig)
    vision_config: VisionConfig = section(VisionConfig)
    text_config: TextConfig = section(TextConfig)
    audio_token_index: int = whole(0, MAX_VOCABULARY, 151646)
    image_token_index: int = whole(0, MAX_VOCABULARY, 151655)
    video_token_index: int = whole(0, MAX_VOCABULARY, 151656)
    audio_start_token_id: int = whole(0, MAX_VOCABULARY, 151647)
    audio_end_token_id: int = whole(0, MAX_VOCABULARY, 151648)
    vision_start_token_id: int = whole(0, MAX_VOCABULARY, 151652)
    vision_end_token_id: int = whole(0, MAX_VOCABULARY, 151653)
    position_id_per_seconds: int = whole(1, 1 << 16, 25)
    seconds_per_chunk: int = whole(1, 1 << 16, 2)  # of audio and video that are told together
    whole_model: bool = False

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any], source: str = "config") -> Self:
        if THINKER not in raw:
            return super().from_dict({**raw, "whole_model": False}, source)
        thinker = raw[THINKER]
        if not isinstance(thinker, dict):
            raise InputError(f"{source}: {THINKER} must be a table, not {quote(thinker)}")
        return super().from_dict({**thinker, "whole_model": True}, f"{source}: {THINKER}")

    @property
    def vocab_size(self) -> int:
        return self.text_config.vocab_size

    @property
    def hidden_size(self) -> int:
        return self.text_config.hidden_size

    @property
    def max_position_embeddings(self) -> int:
        return self.text_config.max_position_embeddings

    @property
    def weight_prefix(self) -> str:
        """What Hugging Face's names of the weights begin with."""
        return THINKER_PREFIX if self.whole_model else ""

    @property
    def special_tokens(self) -> dict[str, int]:
        """The ids that stand for media or enclose them, by key."""
        return {key: value for key, value in vars(self).items() if key.endswith(("_token_index", "_token_id"))}

    def rules(self) -> Mapping[str, bool]:
        ids, width = self.special_tokens, self.hidden_size
        return {
            "audio_config.output_dim must equal text_config.hidden_size": self.audio_config.output_dim == width,
            "vision_config.out_hidden_size must equal text_config.hidden_size":
                self.vision_config.out_hidden_size == width,
            f"{', '.join(ids)} must differ": len(set(ids.values())) == len(ids),
            f"{', '.join(ids)} must be below text_config.vocab_size": max(ids.values()) < self.vocab_size,
        }  # fmt: skip

    def to_dict(self) -> dict[str, Any]:
        """As Hugging Face's config.json writes it: nested where it was read so."""
        thinker = super().to_dict()
        del thinker["whole_model"]
        thinker["model_type"] = "qwen2_5_omni_thinker"
        if not self.whole_model:
            return {"architectures": ["Qwen2_5OmniThinkerForConditionalGeneration"], **thinker}
        return {"architectures": ["Qwen2_5OmniModel"], "model_type": "qwen2_5_omni", THINKER: thinker}

    def without_prefix(self) -> Self:
        """The same thinker, as one that stands alone."""
        return dataclasses.replace(self, whole_model=False)

    def same_model(self, other: Self) -> bool:
        return self.without_prefix() == other.without_prefix()
