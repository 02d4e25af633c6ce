"""config.json and generation_config.json: a model's configuration that can be used, or an InputError."""

import json
from pathlib import Path

from mutations import mutate_bytes, mutate_value, pick, to_text

from ms_impl import families
from ms_impl.config import ConfigSection
from ms_impl.generate.config import GenerationConfig
from ms_impl.io.json_files import read_json
from ms_impl.io.rules import HUGGING_FACE, MINDSPORE

GOLDEN = Path(__file__).parents[1] / "golden"
CONFIGS = [json.loads((GOLDEN / f"{name}_tiny/config.json").read_text()) for name in families.names()]
CONFIGS += [{"model_type": "qwen2_5_omni", "thinker_config": config} for config in CONFIGS if "audio_config" in config]
GENERATION = {"chat_format": "chatml", "do_sample": True, "temperature": 0.7, "top_k": 3, "top_p": 0.8,
              "max_new_tokens": 9, "repetition_penalty": 1.1, "max_window_size": 100,
              "eos_token_id": [3, 4], "pad_token_id": 3}  # fmt: skip


def mutated(rng, content) -> bytes:
    data = to_text(rng, mutate_value(rng, content))
    return mutate_bytes(rng, data) if rng.random() < 0.2 else data


def make(rng, folder):
    (folder / "config.json").write_bytes(mutated(rng, pick(rng, CONFIGS)))
    (folder / "generation_config.json").write_bytes(mutated(rng, GENERATION) if rng.random() < 0.3 else b"{}")
    return folder


def run(folder):
    raw = read_json(folder / "config.json")
    family = families.for_config(raw, str(folder / "config.json"))
    config = family.resolve("config").from_dict(raw, str(folder / "config.json"))
    for layout in (HUGGING_FACE, MINDSPORE):
        for name, shape in family.resolve("weights").shapes(config, layout).items():
            assert all(type(size) is int and size > 0 for size in shape), (name, shape)
    _read_properties(config)
    assert family.resolve("config").from_dict(config.to_dict()) == config
    generation = GenerationConfig.for_checkpoint(folder, folder / "config.json")
    assert all(type(token) is int for token in generation.eos_token_ids)


def _read_properties(section):
    """None of what a configuration derives divides by zero or the like."""
    for name in dir(type(section)):
        if isinstance(getattr(type(section), name), property):
            value = getattr(section, name)
            assert not isinstance(value, int) or value >= 0, name
    for value in vars(section).values():
        if isinstance(value, ConfigSection):
            _read_properties(value)
    if hasattr(section, "ntk_alpha"):
        assert section.ntk_alpha(1) >= 1.0 and section.ntk_alpha(section.max_position_embeddings) >= 1.0


def test_config_json(fuzz):
    fuzz("config.json", make, run, seconds=10, megabytes=500)
