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
        ("use_rslora", True),
        ("rank_pattern", {"c_attn": 8}),
        ("alpha_pattern", {"c_attn": 8}),
        ("layers_to_transform", [0]),
        ("fan_in_fan_out", True),
        ("init_lora_weights", "pissa"),
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
        ("target_modules", "c_attn", "target_modules is 'c_attn'; expected a list of names"),
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
