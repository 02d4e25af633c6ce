"""Small checkpoints in the shape of any family's released model."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))
from random_checkpoint import full_size, smaller

from ms_impl import families
from ms_impl.io.json_files import read_json
from ms_impl.io.rules import HUGGING_FACE


@pytest.mark.parametrize("name", families.names())
def test_a_part_of_the_layers_is_a_model_of_the_family(name):
    family = families.get(name)
    raw, config_class = read_json(full_size(family)), family.resolve("config")
    whole, part = (config_class.from_dict(table, "config.json") for table in (raw, smaller(raw, 1 / 100)))
    sizes = [len(family.resolve("weights").shapes(config, HUGGING_FACE)) for config in (whole, part)]
    assert part.vocab_size == pytest.approx(whole.vocab_size / 100, abs=1)
    assert sizes[1] < sizes[0] / 5
