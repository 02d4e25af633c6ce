"""Qwen-VL's configuration, read from Hugging Face's config.json. No framework is imported here."""

from __future__ import annotations

import math
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
    real,
    section,
    truth,
    whole,
)

RESAMPLER_HEAD_DIM = 128  # visual.py of the original: num_heads = output_dim // 128

_MAX_GRID = 256  # patches along a side
_MAX_TABLE_BYTES = 1 << 30  # of the rotary tables, which a model makes when it is built


@dataclass(frozen=True)
class VisionConfig(ConfigSection):
    """The ``visual`` section of config.json. Sizes in pixels or in features."""

    heads: int = whole(1, MAX_HEADS)
    image_size: int = whole(1, 4096)
    image_start_id: int = whole(0, MAX_VOCABULARY)
    layers: int = whole(1, MAX_LAYERS)
    mlp_ratio: float = real(0.01, 64)
    output_dim: int = whole(RESAMPLER_HEAD_DIM, MAX_WIDTH)
    patch_size: int = whole(1, 1024)
    width: int = whole(1, MAX_WIDTH)
    n_queries: int = whole(1, 1 << 16, 256)
    n_positions: int = whole(1, 1 << 16, 256)  # rows of positional_embedding before it is resized to the patch grid

    @property
    def mlp_width(self) -> int:
        return int(self.width * self.mlp_ratio)

    @property
    def grid(self) -> int:
        """Patches along one side of the image."""
        return self.image_size // self.patch_size

    @property
    def head_dim(self) -> int:
        return self.width // self.heads

    @property
    def has_kv_proj(self) -> bool:
        """The resampler projects the patches only where the widths differ (visual.py of the original)."""
        return self.width != self.output_dim

    @property
    def resampler_heads(self) -> int:
        return self.output_dim // RESAMPLER_HEAD_DIM


@dataclass(frozen=True)
class QwenVLConfig(ConfigSection):
    """Qwen-VL as in ``configuration_qwen.py`` of the original.

    ``intermediate_size`` is twice the width of the feed-forward layer, as in the released file; use ``ffn_size``.
    """

    MODEL: ClassVar[str] = "Qwen-VL"
    FIXED: ClassVar[Mapping[str, Any]] = {
        "no_bias": True, "rotary_pct": 1.0, "tie_word_embeddings": False, "scale_attn_weights": True,
        "emb_dropout_prob": 0.0, "attn_dropout_prob": 0.0,
    }  # fmt: skip

    vocab_size: int = whole(3, MAX_VOCABULARY)
    hidden_size: int = whole(1, MAX_WIDTH)
    num_hidden_layers: int = whole(1, MAX_LAYERS)
    num_attention_heads: int = whole(1, MAX_HEADS)
    kv_channels: int = whole(4, 4096)  # the NTK base divides by kv_channels - 2
    intermediate_size: int = whole(2, MAX_FFN_WIDTH)
    seq_length: int = whole(1, MAX_POSITIONS)
    visual: VisionConfig = section(VisionConfig)
    layer_norm_epsilon: float = real(0, 1, 1e-6)
    max_position_embeddings: int = whole(1, MAX_POSITIONS, 8192)
    rotary_emb_base: float = real(1, 1e12, 10000.0)
    use_dynamic_ntk: bool = truth(True)
    use_logn_attn: bool = truth(True)
    initializer_range: float = real(0, 10, 0.02)

    @property
    def ffn_size(self) -> int:
        return self.intermediate_size // 2

    @property
    def projection_size(self) -> int:
        """Width of all attention heads together."""
        return self.kv_channels * self.num_attention_heads

    @property
    def image_start_id(self) -> int:
        return self.visual.image_start_id

    @property
    def num_queries(self) -> int:
        """Slots of one image in the token stream."""
        return self.visual.n_queries

    def ntk_alpha(self, length: int) -> float:
        """The dynamic NTK factor of a prefill of ``length`` columns (``modeling_qwen.py``, QWenModel.forward)."""
        if not self.use_dynamic_ntk:
            return 1.0
        return max(2.0 ** math.ceil(math.log2(length / self.seq_length) + 1) - 1, 1.0)

    @property
    def rotary_table_bytes(self) -> int:
        """Of cos and sin in fp32 for every position and every NTK factor of any prompt."""
        doublings = math.ceil(math.log2(self.max_position_embeddings / self.seq_length)) if self.use_dynamic_ntk else 0
        return (max(doublings, 0) + 1) * 2 * self.max_position_embeddings * self.kv_channels * 4

    def to_dict(self) -> dict[str, Any]:
        """As Hugging Face's config.json writes it."""
        return {"architectures": ["QWenLMHeadModel"], "model_type": "qwen", **super().to_dict()}

    def rules(self) -> Mapping[str, bool]:
        visual = self.visual
        return {
            "kv_channels × num_attention_heads must equal hidden_size": self.projection_size == self.hidden_size,
            "visual.output_dim must equal hidden_size": visual.output_dim == self.hidden_size,
            f"visual.output_dim must be a multiple of {RESAMPLER_HEAD_DIM}":
                visual.output_dim % RESAMPLER_HEAD_DIM == 0,
            "visual.width must be a multiple of visual.heads": visual.width % visual.heads == 0,
            "visual.image_size must be a multiple of visual.patch_size": visual.image_size % visual.patch_size == 0,
            "visual.n_queries must be a square": math.isqrt(visual.n_queries) ** 2 == visual.n_queries,
            "visual.n_positions must be a square": math.isqrt(visual.n_positions) ** 2 == visual.n_positions,
            "visual.image_start_id + 2 must be below vocab_size": visual.image_start_id + 2 < self.vocab_size,
            "kv_channels must be even": self.kv_channels % 2 == 0,
            "visual.mlp_ratio × visual.width must be 1 or more": visual.mlp_width >= 1,
            f"visual.image_size may be {_MAX_GRID} × visual.patch_size at most": visual.grid <= _MAX_GRID,
            "max_position_embeddings is too large for kv_channels and seq_length: the rotary tables take over 1 GB":
                self.rotary_table_bytes <= _MAX_TABLE_BYTES,
        }  # fmt: skip
