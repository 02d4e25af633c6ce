"""Ovis2.5's configuration, read from Hugging Face's config.json. No framework is imported here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

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
    truth,
    whole,
)

MODEL = "Ovis2.5"
INDICATORS = 4  # the last rows of the visual table: begin and end of an image, begin and end of a video


@dataclass(frozen=True)
class LlmConfig(ConfigSection):
    """``llm_config``: a Qwen3 decoder, without biases, with norms on query and key heads."""

    MODEL: ClassVar[str] = MODEL
    FIXED: ClassVar[Mapping[str, Any]] = {
        "model_type": "qwen3", "hidden_act": "silu", "attention_bias": False, "attention_dropout": 0.0,
        "rope_scaling": None, "use_sliding_window": False,
    }  # fmt: skip

    vocab_size: int = whole(1, MAX_VOCABULARY)
    hidden_size: int = whole(1, MAX_WIDTH)
    intermediate_size: int = whole(1, MAX_FFN_WIDTH)
    num_hidden_layers: int = whole(1, MAX_LAYERS)
    num_attention_heads: int = whole(1, MAX_HEADS)
    num_key_value_heads: int = whole(1, MAX_HEADS)
    head_dim: int = whole(2, 4096, 128)
    rope_theta: float = real(1, 1e12, 1000000.0)
    rms_norm_eps: float = real(0, 1, 1e-6)
    max_position_embeddings: int = whole(1, MAX_POSITIONS, 40960)
    tie_word_embeddings: bool = truth(False)
    initializer_range: float = real(0, 10, 0.02)

    @property
    def attention_width(self) -> int:
        """Width of all query heads together; it need not be ``hidden_size``."""
        return self.num_attention_heads * self.head_dim

    @property
    def kv_width(self) -> int:
        """Width of all key heads together."""
        return self.num_key_value_heads * self.head_dim

    def rules(self) -> Mapping[str, bool]:
        return {
            "num_attention_heads must be a multiple of num_key_value_heads":
                self.num_attention_heads % self.num_key_value_heads == 0,
            "head_dim must be even": self.head_dim % 2 == 0,
        }  # fmt: skip


@dataclass(frozen=True)
class VitConfig(ConfigSection):
    """``vit_config``: a SigLIP 2 encoder over images of their own size, with learned and rotary positions."""

    MODEL: ClassVar[str] = MODEL
    FIXED: ClassVar[Mapping[str, Any]] = {
        "model_type": "siglip2_navit", "hidden_act": "gelu_pytorch_tanh", "attention_dropout": 0.0,
        "preserve_original_pe": True, "use_rope": True, "temporal_patch_size": 1, "hidden_stride": 2,
    }  # fmt: skip

    hidden_size: int = whole(1, MAX_WIDTH)
    intermediate_size: int = whole(1, MAX_FFN_WIDTH)
    num_hidden_layers: int = whole(1, MAX_LAYERS)
    num_attention_heads: int = whole(1, MAX_HEADS)
    image_size: int = whole(1, 1 << 16)  # pixels that the learned positions cover
    patch_size: int = whole(1, 1024)
    num_channels: int = whole(1, 64, 3)
    layer_norm_eps: float = real(0, 1, 1e-6)
    window_size: int = whole(1, 1 << 16, 112)
    fullatt_block_indexes: tuple[int, ...] | None = numbers(0, MAX_LAYERS - 1, MAX_LAYERS, None)  # null: all of them
    initializer_range: float = real(0, 10, 0.02)

    @property
    def hidden_stride(self) -> int:
        """Patches along a side of the units that become one visual token."""
        return self.FIXED["hidden_stride"]

    @property
    def temporal_patch_size(self) -> int:
        return self.FIXED["temporal_patch_size"]

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_attention_heads

    @property
    def patch_features(self) -> int:
        """Numbers of a flattened patch: channels, rows, columns."""
        return self.num_channels * self.patch_size**2

    @property
    def position_side(self) -> int:
        """Rows, and columns, of the learned positions."""
        return self.image_size // self.patch_size

    @property
    def merged_width(self) -> int:
        """Width of a unit of ``hidden_stride``² patches."""
        return self.hidden_size * self.hidden_stride**2

    @property
    def window_patches(self) -> int:
        """Patches along a side of a window: whole units."""
        return self.window_size // self.hidden_stride // self.patch_size * self.hidden_stride

    def rules(self) -> Mapping[str, bool]:
        indexes = self.fullatt_block_indexes or ()
        return {
            "hidden_size must be a multiple of num_attention_heads": self.hidden_size % self.num_attention_heads == 0,
            "hidden_size / num_attention_heads must be a multiple of 4": self.head_dim % 4 == 0,
            "image_size must be a multiple of patch_size": self.image_size % self.patch_size == 0,
            "image_size may be 256 × patch_size at most": self.position_side <= 256,
            "window_size must be at least patch_size × 2": self.window_patches > 0,
            "fullatt_block_indexes must be below num_hidden_layers": all(i < self.num_hidden_layers for i in indexes),
        }


@dataclass(frozen=True)
class Ovis2_5Config(ConfigSection):
    """Ovis2.5: a vision tower, a head that spreads each unit over a visual table, and a language model."""

    MODEL: ClassVar[str] = MODEL
    FIXED: ClassVar[Mapping[str, Any]] = {"conversation_formatter_class": "Qwen3ConversationFormatter"}

    llm_config: LlmConfig = section(LlmConfig)
    vit_config: VitConfig = section(VitConfig)
    visual_vocab_size: int = whole(INDICATORS + 1, MAX_VOCABULARY)
    hidden_size: int = whole(1, MAX_WIDTH)

    @property
    def vocab_size(self) -> int:
        return self.llm_config.vocab_size

    @property
    def max_position_embeddings(self) -> int:
        return self.llm_config.max_position_embeddings

    @property
    def visual_tokens(self) -> int:
        """Rows of the visual table that images are spread over."""
        return self.visual_vocab_size - INDICATORS

    def rules(self) -> Mapping[str, bool]:
        return {"hidden_size must equal llm_config.hidden_size": self.hidden_size == self.llm_config.hidden_size}

    def to_dict(self) -> dict[str, Any]:
        """As Hugging Face's config.json writes it."""
        return {"architectures": ["Ovis2_5"], "model_type": "ovis2_5", **super().to_dict()}
