"""LoRA's settings: from a YAML, from PEFT's adapter_config.json, and what is refused."""

import json

import peft
import pytest

from ms_impl.adapters.config import CONFIG_NAME, LoraConfig
from ms_impl.errors import InputError

SETTINGS = {
    "r": 4,
    "lora_alpha": 16,
    "lora_dropout": 0.05,
    "target_modules": ["c_attn", "w1"],
    "modules_to_save": ["wte"],
}


def from_settings(**changes) -> LoraConfig:
    return LoraConfig.from_settings({**SETTINGS, **changes}, "lora")


@pytest.fixture
def peft_file(tmp_path):
    """PEFT's own adapter_config.json, with some values changed."""

    def write(**changes):
        peft.LoraConfig(**SETTINGS, task_type="CAUSAL_LM").save_pretrained(tmp_path)
        raw = json.loads((tmp_path / CONFIG_NAME).read_text())
        (tmp_path / CONFIG_NAME).write_text(json.dumps({**raw, **changes}))
        return tmp_path

    return write


def test_defaults_are_pefts():
    ours, theirs = LoraConfig(("c_attn",)), peft.LoraConfig()
    assert (ours.r, ours.lora_alpha, ours.lora_dropout) == (theirs.r, theirs.lora_alpha, theirs.lora_dropout)


def test_pefts_file_is_read(peft_file):
    config = LoraConfig.read(peft_file())
    assert (config.r, config.lora_alpha, config.lora_dropout) == (4, 16, 0.05)
    assert (sorted(config.target_modules), config.modules_to_save) == (["c_attn", "w1"], ("wte",))


@pytest.mark.filterwarnings("error")  # PEFT warns of keys that it does not know
@pytest.mark.parametrize("saved", [["wte"], []])
def test_peft_reads_our_file(tmp_path, saved):
    config = from_settings(modules_to_save=saved, base_model_name_or_path="base")
    (tmp_path / CONFIG_NAME).write_text(config.to_json())
    theirs = peft.PeftConfig.from_pretrained(tmp_path)
    assert isinstance(theirs, peft.LoraConfig)
    assert (theirs.r, theirs.lora_alpha, theirs.lora_dropout) == (4, 16, 0.05)
    assert (theirs.target_modules, theirs.modules_to_save) == ({"c_attn", "w1"}, saved or None)
    assert (theirs.task_type, theirs.bias, theirs.base_model_name_or_path) == ("CAUSAL_LM", "none", "base")
    assert LoraConfig.read(tmp_path) == config


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("use_dora", True),
        ("lora_bias", True),
        ("trainable_token_indices", [1]),
        ("layer_replication", [[0, 1]]),
        ("init_lora_weights", "pissa"),
        ("init_lora_weights", "pissa_niter_4"),
        ("init_lora_weights", "olora"),
        ("init_lora_weights", "eva"),
        ("init_lora_weights", "corda"),
        ("init_lora_weights", "loftq"),
        ("bias", "all"),
        ("peft_type", "IA3"),
        ("a_setting_of_tomorrow", 1),
    ],
)
def test_what_is_not_implemented_is_refused_unless_it_is_off(peft_file, key, value):
    with pytest.raises(InputError, match=f"{CONFIG_NAME}: {key} is {value!r}".replace("[", r"\[")):
        LoraConfig.read(peft_file(**{key: value}))


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("r", 0, "r is 0; expected a whole number above 0"),
        ("r", 4.0, "r is 4.0"),
        ("r", True, "r is True"),
        ("r", "4", "r is '4'"),
        ("lora_alpha", "16", "lora_alpha is '16'; expected a number above 0"),
        ("lora_alpha", 0, "lora_alpha is 0"),
        ("lora_dropout", 1, "lora_dropout is 1; expected a number from 0 to below 1"),
        ("lora_dropout", -0.1, "lora_dropout is -0.1"),
        ("lora_dropout", "none", "lora_dropout is 'none'"),
        ("r", 70_000, "r is 70000; expected a whole number above 0, at most 65,536"),
        ("r", 10**40, "r is 1000"),
        ("lora_alpha", float("nan"), "lora_alpha is nan; expected a number above 0, at most 1,000,000"),
        ("lora_alpha", float("inf"), "lora_alpha is inf"),
        ("lora_alpha", 1e30, "lora_alpha is 1e"),
        ("lora_alpha", True, "lora_alpha is True"),
        ("lora_alpha", -1, "lora_alpha is -1"),
        ("lora_dropout", float("nan"), "lora_dropout is nan"),
        ("target_modules", "(c_attn", r"target_modules is '\(c_attn', which is not a regular expression"),
        ("target_modules", "", "target_modules is empty"),
        ("target_modules", {"c_attn": 1}, "target_modules is {'c_attn': 1}; expected a list of names"),
        ("exclude_modules", "*", r"exclude_modules is '\*', which is not a regular expression"),
        ("use_rslora", "false", "use_rslora is 'false'; expected true or false"),
        ("rank_pattern", ["c_attn"], r"rank_pattern is \['c_attn'\]; expected a table"),
        ("rank_pattern", {"c_attn": 0}, "rank_pattern.c_attn is 0; expected a whole number above 0"),
        ("alpha_pattern", {"c_attn": float("inf")}, "alpha_pattern.c_attn is inf; expected a number above 0"),
        ("alpha_pattern", {"c_(": 1}, r"alpha_pattern is 'c_\(', which is not a regular expression"),
        ("layers_to_transform", [-1], r"layers_to_transform is \[-1\]; expected numbers of layers, from 0"),
        ("layers_pattern", ["h"], "layers_pattern needs layers_to_transform"),
        ("target_modules", [], "target_modules is empty"),
        ("target_modules", None, "target_modules is missing"),
        ("modules_to_save", [1], r"modules_to_save is \[1\]; expected a list of names"),
        ("base_model_name_or_path", 3, "base_model_name_or_path is 3; expected a text"),
        ("rank", 4, "unknown key 'rank'; known: r, "),
    ],
)
def test_wrong_values_are_named(key, value, message):
    with pytest.raises(InputError, match=f"^lora: {message}"):
        from_settings(**{key: value})


def test_a_section_builds_on_the_adapter_that_it_names(peft_file):
    section = {"adapter": str(peft_file()), "lora_dropout": 0.5, "r": None}
    config = LoraConfig.from_section(section, "lora")
    assert (config.r, config.lora_alpha, config.lora_dropout, config.modules_to_save) == (4, 16, 0.5, ("wte",))
    assert LoraConfig.from_section(SETTINGS, "lora") == from_settings()


@pytest.mark.parametrize("key", ["r", "lora_alpha", "lora_dropout"])
def test_a_number_that_is_null_in_a_file_is_refused(peft_file, key):
    with pytest.raises(InputError, match=f"{CONFIG_NAME}: {key} is null; expected a number"):
        LoraConfig.read(peft_file(**{key: None}))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_an_alpha_that_is_not_finite_is_named_in_a_file_too(peft_file, value):
    with pytest.raises(InputError, match=f"{CONFIG_NAME}: lora_alpha is {value}; expected a number above 0"):
        LoraConfig.read(peft_file(lora_alpha=value))


EVERYTHING = {
    "exclude_modules": ["h.1.mlp.w1"],
    "layers_to_transform": [0, 1],
    "layers_pattern": ["h"],
    "rank_pattern": {"c_attn": 2, r"h\.\d+\.mlp\.w1": 3},
    "alpha_pattern": {"c_attn": 3.5},
    "use_rslora": True,
}


def test_all_settings_go_to_peft_and_come_from_it(tmp_path):
    ours = from_settings(**EVERYTHING)
    (tmp_path / CONFIG_NAME).write_text(ours.to_json())
    theirs = peft.PeftConfig.from_pretrained(tmp_path)
    for key, value in EVERYTHING.items():
        found = getattr(theirs, key)
        assert (sorted(found) if isinstance(found, set) else found) == value, key
    theirs.save_pretrained(tmp_path / "theirs")
    found = LoraConfig.read(tmp_path / "theirs")
    assert {**found.settings(), "target_modules": ()} == {**ours.settings(), "target_modules": ()}


def test_a_text_names_targets_by_a_regular_expression(tmp_path):
    config = from_settings(target_modules=r".*\.(c_attn|w1)", exclude_modules=r".*\.0\..*")
    (tmp_path / CONFIG_NAME).write_text(config.to_json())
    theirs = peft.PeftConfig.from_pretrained(tmp_path)
    assert (theirs.target_modules, theirs.exclude_modules) == (r".*\.(c_attn|w1)", r".*\.0\..*")
    assert LoraConfig.read(tmp_path) == config
    for key, value in (("layers_to_transform", 1), ("layers_pattern", "h")):
        with pytest.raises(InputError, match=f"{key} needs a list as target_modules"):
            from_settings(**{"layers_to_transform": None, "target_modules": ".*", key: value})


def test_what_changes_nothing_may_stand_in_a_file(peft_file, caplog):
    harmless = {"fan_in_fan_out": True, "init_lora_weights": "orthogonal", "task_type": None, "revision": "main"}
    assert LoraConfig.read(peft_file(**harmless)) == LoraConfig.read(peft_file())
    assert "fan_in_fan_out is true" in caplog.text
