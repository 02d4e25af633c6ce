"""Configuration, weight table and module groups of every family, held against one another."""

import json
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from ms_impl import families
from ms_impl.io.rules import HUGGING_FACE, MINDSPORE

ROOT = Path(__file__).parents[2]


def test_a_configuration_survives_its_file(family, tiny_config):
    written = json.loads(json.dumps(tiny_config.to_dict()))
    assert type(tiny_config).from_dict(written, "written") == tiny_config
    assert family.matches(written)
    assert families.for_config(written, "written") is family


def test_released_and_own_names_recognise_the_family(family, raw):
    for model_type in family.model_types:
        assert families.for_config({**raw, "model_type": model_type}, "config.json") is family


@pytest.mark.parametrize("layout", [HUGGING_FACE, MINDSPORE])
def test_module_groups_partition_the_weights(family, tiny_config, layout):
    names = family.resolve("weights").shapes(tiny_config, layout)
    assert set(family.groups) <= {"language_model", "vision_tower", "aligner", "generator"}  # as fine-tuners speak
    parts = {group: family.frozen_names(names, [group]) for group in family.groups}
    assert sum(map(len, parts.values())) == len(names) and set().union(*parts.values()) == set(names)
    assert [group for group, part in parts.items() if not part] in ([], ["generator"])


def test_what_a_yaml_freezes_are_module_groups(family):
    for key, groups in family.freeze_keys.items():
        assert key.startswith("freeze_") and set(groups) <= set(family.groups)


def test_no_weight_is_called_harmless_or_skipped(family, tiny_config):
    for table in (family.resolve("weights"), *map(family.source_weights, family.sources)):
        for layout in (HUGGING_FACE, table.layout):
            names = table.shapes(tiny_config, layout)
            assert [name for name in names if table.is_harmless(name) or table.is_skipped(name)] == []


def test_embeddings_are_matrices_and_the_head_is_no_embedding(family, tiny_config):
    from ms_impl.adapters.targets import is_embedding, linear_layers

    shapes = family.resolve("weights").shapes(tiny_config, HUGGING_FACE)
    embeddings = [name for name in shapes if is_embedding(name.removesuffix(".weight"), family)]
    assert embeddings and all(len(shapes[name]) == 2 for name in embeddings)
    assert not {name.removesuffix(".weight") for name in embeddings} & set(linear_layers(shapes, family))


def test_configuration_and_table_need_no_framework():
    """A conversion begins in well under a second."""
    code = (
        "import sys; from ms_impl import families\n"
        "for family in families.all_families().values(): family.resolve('config'), family.resolve('weights')\n"
        "print({'mindspore', 'mindformers', 'torch', 'transformers'} & set(sys.modules))"
    )
    began = resource.getrusage(resource.RUSAGE_CHILDREN)
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert run.stdout == "set()\n", run.stderr
    assert spent.ru_utime + spent.ru_stime - began.ru_utime - began.ru_stime < 1.0  # of processor time
