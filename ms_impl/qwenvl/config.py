"""Qwen-VL's configuration, read from Hugging Face's config.json. No framework is imported here."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ms_impl.errors import InputError, quote
from ms_impl.io.json_files import read_json
from ms_impl.io.typed_fields import real, take, truth, whole

RESAMPLER_HEAD_DIM = 128  # visual.py of the original: num_heads = output_dim // 128
MAX_LAYERS = 1024

_MAX_VOCABULARY = 1 << 24
_MAX_WIDTH = 1 << 17
_MAX_GRID = 256  # patches along a side
_MAX_TABLE_BYTES = 1 << 30  # of the rotary tables, which a model makes when it is built


@dataclass(frozen=True)
class VisionConfig:
    """The ``visual`` section of config.json. Sizes in pixels or in features."""

    heads: int = whole(1, 1024)
    image_size: int = whole(1, 4096)
    image_start_id: int = whole(0, _MAX_VOCABULARY)
    layers: int = whole(1, MAX_LAYERS)
    mlp_ratio: float = real(0.01, 64)
    output_dim: int = whole(RESAMPLER_HEAD_DIM, _MAX_WIDTH)
    patch_size: int = whole(1, 1024)
    width: int = whole(1, _MAX_WIDTH)
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
class QwenVLConfig:
    """Qwen-VL as in ``configuration_qwen.py`` of the original.

    ``intermediate_size`` is twice the width of the feed-forward layer, as in the released file; use ``ffn_size``.
    """

    vocab_size: int = whole(3, _MAX_VOCABULARY)
    hidden_size: int = whole(1, _MAX_WIDTH)
    num_hidden_layers: int = whole(1, MAX_LAYERS)
    num_attention_heads: int = whole(1, 1024)
    kv_channels: int = whole(4, 4096)  # the NTK base divides by kv_channels - 2
    intermediate_size: int = whole(2, 1 << 22)
    seq_length: int = whole(1, 1 << 20)
    visual: VisionConfig
    layer_norm_epsilon: float = real(0, 1, 1e-6)
    max_position_embeddings: int = whole(1, 1 << 20, 8192)
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

    @classmethod
    def from_dict(cls, raw: dict[str, Any], source: str = "config") -> "QwenVLConfig":
        """Read a parsed config.json; keys that do not change what the model computes are passed over."""
        visual = raw.get("visual")
        if not isinstance(visual, dict):
            raise InputError(f"{source}: 'visual' is no table; this is not the configuration of a Qwen-VL model")
        vision = VisionConfig(**take(VisionConfig, visual, f"{source}: visual"))
        config = cls(**take(cls, {**raw, "visual": vision}, source))
        _check(config, raw, source)
        return config

    @classmethod
    def from_file(cls, path: str | Path) -> "QwenVLConfig":
        """Read a config.json, or the one inside a directory."""
        path = Path(path)
        path = path / "config.json" if path.is_dir() else path
        return cls.from_dict(read_json(path), str(path))

    def to_dict(self) -> dict[str, Any]:
        """As Hugging Face's config.json writes it."""
        return {"architectures": ["QWenLMHeadModel"], "model_type": "qwen", **dataclasses.asdict(self), **_FIXED}


# What this implementation computes; a checkpoint that says otherwise is refused rather than miscomputed.
_FIXED = {
    "no_bias": True, "rotary_pct": 1.0, "tie_word_embeddings": False, "scale_attn_weights": True,
    "emb_dropout_prob": 0.0, "attn_dropout_prob": 0.0,
}  # fmt: skip


def _check(config: QwenVLConfig, raw: dict[str, Any], source: str) -> None:
    for key, value in _FIXED.items():
        found = raw.get(key, value)
        if found != value or isinstance(found, bool) != isinstance(value, bool):
            raise InputError(f"{source}: {key}={quote(found)} is not implemented; Qwen-VL has {value!r}")
    visual = config.visual
    rules = {
        "kv_channels × num_attention_heads must equal hidden_size": config.projection_size == config.hidden_size,
        "visual.output_dim must equal hidden_size": visual.output_dim == config.hidden_size,
        f"visual.output_dim must be a multiple of {RESAMPLER_HEAD_DIM}": visual.output_dim % RESAMPLER_HEAD_DIM == 0,
        "visual.width must be a multiple of visual.heads": visual.width % visual.heads == 0,
        "visual.image_size must be a multiple of visual.patch_size": visual.image_size % visual.patch_size == 0,
        "visual.n_queries must be a square": math.isqrt(visual.n_queries) ** 2 == visual.n_queries,
        "visual.n_positions must be a square": math.isqrt(visual.n_positions) ** 2 == visual.n_positions,
        "visual.image_start_id + 2 must be below vocab_size": visual.image_start_id + 2 < config.vocab_size,
        "kv_channels must be even": config.kv_channels % 2 == 0,
        "visual.mlp_ratio × visual.width must be 1 or more": visual.mlp_width >= 1,
        f"visual.image_size may be {_MAX_GRID} × visual.patch_size at most": visual.grid <= _MAX_GRID,
        "max_position_embeddings is too large for kv_channels and seq_length: the rotary tables take over 1 GB":
            config.rotary_table_bytes <= _MAX_TABLE_BYTES,
    }  # fmt: skip
    broken = [rule for rule, holds in rules.items() if not holds]
    if broken:
        raise InputError(f"{source}: {'; '.join(broken)}")
