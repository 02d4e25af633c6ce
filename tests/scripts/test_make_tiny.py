"""Small models with random weights, of every family that has a recipe for them."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts/small_models"))

import make_tiny
import ovis_vocabulary

from ms_impl import families
from ms_impl.generate.config import GenerationConfig
from ms_impl.io.conversion import load_for_mindspore


@pytest.mark.parametrize("model", sorted(make_tiny.RECIPES))
def test_a_fresh_checkpoint_is_whole_and_repeatable(model, tmp_path):
    one, two = (tmp_path / name for name in ("one", "two"))
    for directory in (one, two):
        assert make_tiny.main(["--model", model, "--output_path", str(directory)]) == 0
    files = sorted(file.name for file in one.iterdir())
    assert {"config.json", "generation_config.json", "model.safetensors"} < set(files)
    for name in files:
        assert (one / name).read_bytes() == (two / name).read_bytes()
    family = families.get(model)
    config = family.resolve("config").from_file(one)
    load_for_mindspore(one, family, config)  # no weight is missing, none is of another shape
    template = family.make_template(one, config)
    assert template.tokenizer.vocab_size <= config.vocab_size
    generation = GenerationConfig.for_checkpoint(one, one / "config.json", defaults=family.generation)
    ends = {template.tokenizer.im_end_id, template.tokenizer.eod_id}
    assert set(np.ravel(generation.eos_token_id)) <= ends


def test_a_configuration_without_room_for_the_bytes_is_refused(tmp_path, capsys):
    directory = make_tiny.CONFIGURATIONS / "ovis2_5/tiny"
    for name in ("config.json", "generation_config.json"):
        text = (directory / name).read_text().replace('"vocab_size": 1280', '"vocab_size": 200')
        (tmp_path / name).write_text(text)
    given = ["--model", "ovis2_5", "--config", str(tmp_path), "--output_path", str(tmp_path / "made")]
    assert make_tiny.main(given) == 2
    assert "room for 174 ranks" in capsys.readouterr().err


def test_a_vocabulary_may_be_given(tmp_path):
    vocabulary, made = tmp_path / "vocabulary", tmp_path / "made"
    assert ovis_vocabulary.main(["--output_path", str(vocabulary)]) == 0
    config = make_tiny.CONFIGURATIONS / "ovis2_5/tiny_easyvqa"
    given = ["--model", "ovis2_5", "--config", str(config), "--vocabulary", str(vocabulary)]
    assert make_tiny.main([*given, "--output_path", str(made)]) == 0
    template = families.get("ovis2_5").make_template(made)
    words = template.tokenizer.encode("top left: blue circle, red no, 0\n")
    assert template.tokenizer.vocab_size == template.config.vocab_size == 480 and len(words) == 12
