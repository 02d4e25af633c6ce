"""config.json: every key typed and bounded when it is read, before anything is built or expanded from it."""

import copy
import json
import os
from contextlib import nullcontext

import pytest

from ms_impl import families
from ms_impl.errors import InputError
from ms_impl.qwenvl.config import QwenVLConfig

NAN, INFINITE = float("nan"), float("inf")


@pytest.fixture
def raw(golden_dir) -> dict:
    return json.loads((golden_dir / "config.json").read_text())


def changed(raw: dict, key: str, value) -> dict:
    raw = copy.deepcopy(raw)
    section, _, last = key.rpartition(".")
    (raw[section] if section else raw)[last] = value
    return raw


@pytest.mark.parametrize("key, value, shown", [
    ("visual.heads", 0, "0"), ("visual.heads", "3", "'3'"), ("visual.heads", None, "null"), ("visual.heads", True, "true"),
    ("visual.patch_size", 0, "0"), ("visual.layers", 2 * 10**9, "2000000000"), ("visual.n_queries", -4, "-4"),
    ("visual.n_positions", 0, "0"), ("visual.mlp_ratio", "4", "'4'"), ("visual.mlp_ratio", INFINITE, "inf"),
    ("visual.width", [96], r"\[96\]"), ("visual.image_start_id", -1, "-1"), ("visual.output_dim", 0, "0"),
    ("visual.image_size", 10**30, "10000"), ("num_hidden_layers", 2.0, "2.0"), ("num_hidden_layers", 2 * 10**9, "20000"),
    ("num_hidden_layers", 0, "0"), ("num_attention_heads", 0, "0"), ("intermediate_size", None, "null"),
    ("vocab_size", {}, "{}"), ("hidden_size", "9" * 10**6, "'999"), ("seq_length", 0, "0"), ("seq_length", -5, "-5"),
    ("max_position_embeddings", 0, "0"), ("use_dynamic_ntk", "false", "'false'"), ("use_logn_attn", None, "null"),
    ("use_logn_attn", 0, "0"), ("layer_norm_epsilon", NAN, "nan"), ("layer_norm_epsilon", -1e-6, "-1e-06"),
    ("rotary_emb_base", 0, "0"), ("rotary_emb_base", True, "true"), ("initializer_range", "x", "'x'"),
    ("kv_channels", 2, "2"), ("kv_channels", -32, "-32"),
])  # fmt: skip
def test_a_value_of_another_type_or_out_of_range_is_named(raw, key, value, shown):
    with pytest.raises(
        InputError, match=f"x/config.json: .*{key.rpartition('.')[2]} must be .*, not {shown}"
    ) as refusal:
        QwenVLConfig.from_dict(changed(raw, key, value), "x/config.json")
    assert len(str(refusal.value)) < 300


@pytest.mark.parametrize("key, value, message", [
    ("visual", None, "visual must be a table, not null"), ("visual", [], "visual must be a table"),
    ("no_bias", False, "no_bias=False is not implemented"), ("no_bias", 1, "no_bias=1 is not implemented"),
    ("rotary_pct", "1.0", "rotary_pct='1.0' is not implemented"),
    ("visual.heads", 5, "visual.width must be a multiple of visual.heads"),
    ("visual.mlp_ratio", 0.01, "visual.mlp_ratio × visual.width must be 1 or more"),
    ("visual.n_queries", 5, "visual.n_queries must be a square"),
    ("max_position_embeddings", 1 << 20, "the rotary tables take over 1 GB"),
    ("seq_length", 1, None), ("rotary_pct", 1, None), ("unknown", {"deep": [1]}, None),
])  # fmt: skip
def test_values_that_do_not_go_together_are_named(raw, key, value, message):
    content = changed(raw, key, value)
    with nullcontext() if message is None else pytest.raises(InputError, match=message):
        QwenVLConfig.from_dict(content)


def test_every_number_of_the_released_model_is_in_range():
    config = QwenVLConfig.from_file("configs/qwenvl/qwenvl_9.6b")
    assert QwenVLConfig.from_dict(config.to_dict()) == config


def test_a_pipe_is_refused(tmp_path):
    os.mkfifo(tmp_path / "config.json")
    with pytest.raises(InputError, match="config.json: not a file, but a pipe"):
        QwenVLConfig.from_file(tmp_path)


def test_a_table_is_not_expanded_for_a_wrong_number(raw):
    config = QwenVLConfig.from_dict(raw)
    object.__setattr__(config, "num_hidden_layers", 2 * 10**9)  # a family that does not bound its numbers
    with pytest.raises(InputError, match="asks for 2000000000 of it; the limit is 10,000"):
        families.get("qwenvl").resolve("weights").expand(config)
