"""config.json of a whole Omni and of a thinker alone: read to the same, every wrong key named."""

import copy
import json
from pathlib import Path

import pytest

from ms_impl.errors import InputError
from ms_impl.qwen2_5_omni.config import Qwen2_5OmniConfig

GOLDEN = Path(__file__).parents[1] / "golden/qwen2_5_omni_tiny"


@pytest.fixture
def thinker() -> dict:
    return json.loads((GOLDEN / "config.json").read_text())


def changed(raw: dict, key: str, value) -> dict:
    raw = copy.deepcopy(raw)
    *sections, last = key.split(".")
    table = raw
    for section in sections:
        table = table[section]
    if value is KeyError:
        del table[last]
    else:
        table[last] = value
    return raw


def test_a_whole_omni_has_the_thinker_of_its_section(thinker):
    alone = Qwen2_5OmniConfig.from_dict(thinker)
    nested = Qwen2_5OmniConfig.from_dict(
        {"model_type": "qwen2_5_omni", "thinker_config": thinker, "talker_config": {"vocab_size": "not read"}}
    )
    assert nested.without_prefix() == alone != nested
    assert (nested.weight_prefix, alone.weight_prefix) == ("thinker.", "")


def test_what_is_written_is_read_as_transformers_reads_it(thinker):
    transformers = pytest.importorskip("transformers")
    alone = Qwen2_5OmniConfig.from_dict(thinker)
    theirs = transformers.Qwen2_5OmniThinkerConfig(**alone.to_dict())
    for ours, section in ((alone, theirs), *((getattr(alone, name), getattr(theirs, name)) for name in _SECTIONS)):
        for key, value in ours.to_dict().items():
            if key not in _SECTIONS:
                assert getattr(section, key) == value, key


_SECTIONS = ("audio_config", "vision_config", "text_config")


@pytest.mark.parametrize("key, value, message", [
    ("thinker_config", [], "x: thinker_config must be a table, not"),
    ("audio_config", None, "x: audio_config must be a table, not null"),
    ("text_config.hidden_size", KeyError, "x: text_config: missing hidden_size"),
    ("vision_config.hidden_size", KeyError, "x: vision_config: missing hidden_size"),
    ("text_config.rope_scaling", None, "x: text_config: rope_scaling must be a table, not null"),
    ("text_config.rope_scaling.mrope_section", [2, 3], "text_config: rope_scaling: mrope_section must have three"),
    ("text_config.rope_scaling.mrope_section", [2, 3, 4], "mrope_section must add up to half"),
    ("text_config.rope_scaling.rope_type", "yarn", "rope_type='yarn' is not implemented; Qwen2.5-Omni has 'default'"),
    ("text_config.num_key_value_heads", 3, "num_attention_heads must be a multiple of num_key_value_heads"),
    ("text_config.tie_word_embeddings", True, "tie_word_embeddings=True is not implemented"),
    ("vision_config.fullatt_block_indexes", [1, 4], "fullatt_block_indexes must be below depth"),
    ("vision_config.fullatt_block_indexes", [True], "must be a list of at most 1024 whole numbers"),
    ("vision_config.out_hidden_size", 32, "vision_config.out_hidden_size must equal text_config.hidden_size"),
    ("audio_config.output_dim", 32, "audio_config.output_dim must equal text_config.hidden_size"),
    ("audio_config.encoder_layers", 10**9, "encoder_layers must be a whole number from 1 to 1,024"),
    ("audio_config.n_window", 3, "n_window must be even"),
    ("image_token_index", 320, "must be below text_config.vocab_size"),
    ("image_token_index", 313, "must differ"),
])  # fmt: skip
def test_a_wrong_key_is_named(thinker, key, value, message):
    with pytest.raises(InputError, match=message):
        Qwen2_5OmniConfig.from_dict(changed(thinker, key, value), "x")
