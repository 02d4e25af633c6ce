"""Ovis2.5's config.json: every wrong key is named."""

import copy
import json
from pathlib import Path

import pytest

from ms_impl.errors import InputError
from ms_impl.ovis2_5.config import Ovis2_5Config

GOLDEN = Path(__file__).parents[1] / "golden/ovis2_5_tiny"


@pytest.fixture
def raw() -> dict:
    return json.loads((GOLDEN / "config.json").read_text())


@pytest.mark.parametrize("key, value, message", [
    ("llm_config", "x", "x: llm_config must be a table, not 'x'"),
    ("llm_config.model_type", "qwen2", "x: llm_config: model_type='qwen2' is not implemented; Ovis2.5 has 'qwen3'"),
    ("llm_config.rope_scaling", {"type": "yarn"}, "rope_scaling={'type': 'yarn'} is not implemented"),
    ("llm_config.tie_word_embeddings", 1, "tie_word_embeddings must be true or false, not 1"),
    ("llm_config.num_key_value_heads", 3, "must be a multiple of num_key_value_heads"),
    ("vit_config.temporal_patch_size", 2, "temporal_patch_size=2 is not implemented"),
    ("vit_config.num_attention_heads", 3, "hidden_size must be a multiple of num_attention_heads"),
    ("vit_config.fullatt_block_indexes", [3], "fullatt_block_indexes must be below num_hidden_layers"),
    ("vit_config.fullatt_block_indexes", "all", "must be a list of at most 1024 whole numbers .*, or null"),
    ("visual_vocab_size", 4, "visual_vocab_size must be a whole number from 5"),
    ("hidden_size", 32, "hidden_size must equal llm_config.hidden_size"),
    ("conversation_formatter_class", "Qwen2ConversationFormatter", "is not implemented"),
])  # fmt: skip
def test_a_wrong_key_is_named(raw, key, value, message):
    table, last = raw, key
    if "." in key:
        section, last = key.split(".")
        table = raw[section]
    table[last] = copy.deepcopy(value)
    with pytest.raises(InputError, match=message):
        Ovis2_5Config.from_dict(raw, "x")


def test_windows_are_of_whole_units(raw):
    config = Ovis2_5Config.from_dict(raw)
    assert config.vit_config.window_patches == 6  # 112 pixels are 3 units of 2 × 2 patches of 16
