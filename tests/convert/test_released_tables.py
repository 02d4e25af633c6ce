"""Weight tables at the released sizes against the names and shapes of the released checkpoints."""

import json
import math
from pathlib import Path

import pytest
from released_shapes import expanded, read

from ms_impl import families
from ms_impl.io.rules import HUGGING_FACE, MINDSPORE

ROOT = Path(__file__).parents[2]

RELEASED = {  # family, tensors, numbers
    "qwenvl_9.6b": ("qwenvl", 853, 9_656_935_168),
    "qwen2_5_omni_3b": ("qwen2_5_omni", 1442, 4_703_464_448),
    "qwen2_5_omni_7b": ("qwen2_5_omni", 1346, 8_931_813_888),
    "ovis2_5_2b": ("ovis2_5", 751, 2_570_429_672),
    "ovis2_5_9b": ("ovis2_5", 840, 9_174_807_784),
}
GROUPS = {  # numbers by module group
    "qwenvl_9.6b": {"language_model": 7_721_324_544},
    "qwen2_5_omni_3b": {"language_model": 3_085_938_688 + 311_164_928, "generator": 0},
    "qwen2_5_omni_7b": {"language_model": 7_070_619_136 + 544_997_376, "generator": 0},
    "ovis2_5_2b": {
        "language_model": 1_720_574_976, "vision_tower": 413_534_448, "aligner": 302_102_520 + 134_217_728,
    },
    "ovis2_5_9b": {
        "language_model": 8_190_735_360, "vision_tower": 413_534_448, "aligner": 302_102_520 + 268_435_456,
    },
}  # fmt: skip


def released(name: str) -> tuple[dict, dict[str, tuple[int, ...]]]:
    """config.json, and shapes by name."""
    config = json.loads((ROOT / f"configs/{RELEASED[name][0]}/{name}/config.json").read_text())
    content = read(name)
    return config, expanded(content) if "layers" in content else {each: tuple(s) for each, s in content.items()}


@pytest.mark.parametrize("name", RELEASED)
def test_names_and_shapes_are_the_released_ones(name):
    family_name, count, numbers = RELEASED[name]
    family, (raw, expected) = families.get(family_name), released(name)
    assert families.for_config(raw, name) is family
    table, config = family.resolve("weights"), family.resolve("config").from_dict(raw, name)
    found = table.shapes(config, HUGGING_FACE)
    assert found == expected
    assert (len(found), sum(map(math.prod, found.values()))) == (count, numbers)
    prefix = table.prefix(config)  # our names are the same without it
    assert {prefix + own: shape for own, shape in table.shapes(config, MINDSPORE).items()} == expected


@pytest.mark.parametrize("name", RELEASED)
def test_module_groups_have_the_sizes_that_are_published(name):
    family, (_, shapes) = families.get(RELEASED[name][0]), released(name)
    sizes = dict.fromkeys(family.groups, 0)
    for tensor, shape in shapes.items():
        sizes[family.group_of(tensor)] += math.prod(shape)
    assert {group: sizes[group] for group in GROUPS[name]} == GROUPS[name]


@pytest.mark.parametrize("name", ["qwenvl", "qwen2_5_omni", "ovis2_5"])
def test_golden_checkpoints_have_the_names_and_shapes_of_their_configurations(name):
    from ms_impl.io.checkpoint import open_checkpoint

    family, directory = families.get(name), ROOT / f"tests/golden/{name}_tiny"
    shapes = family.resolve("weights").shapes(family.resolve("config").from_file(directory), HUGGING_FACE)
    assert {tensor: values.shape for tensor, values in open_checkpoint(directory).tensors.items()} == shapes
