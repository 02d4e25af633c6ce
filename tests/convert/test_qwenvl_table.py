"""Qwen-VL's weight table against the released checkpoint's names and shapes, and against the tiny checkpoint's."""

import json
import math
from pathlib import Path

import pytest

from convert.qwenvl import WEIGHTS
from ms_impl import families
from ms_impl.io.checkpoint import open_checkpoint
from ms_impl.io.rules import HUGGING_FACE, MINDSPORE
from ms_impl.qwenvl.config import QwenVLConfig

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def full_size() -> QwenVLConfig:
    return QwenVLConfig.from_file(ROOT / "configs/qwenvl/qwenvl_9.6b")


@pytest.mark.parametrize("layout", [HUGGING_FACE, MINDSPORE], ids=str)
def test_full_size_names_and_shapes_are_the_released_ones(full_size, layout):
    released = json.loads((ROOT / "tests/golden/qwenvl_9.6b_shapes.json").read_text())
    shapes = WEIGHTS.shapes(full_size, layout)
    assert {name: list(shape) for name, shape in shapes.items()} == released
    assert len(shapes) == 853
    assert sum(map(math.prod, shapes.values())) == 9_656_935_168


def test_every_tensor_belongs_to_a_module_group(full_size):
    qwenvl = families.get("qwenvl")
    sizes = dict.fromkeys(qwenvl.groups, 0)
    for name, shape in WEIGHTS.shapes(full_size, HUGGING_FACE).items():
        sizes[qwenvl.group_of(name)] += math.prod(shape)
    assert sizes["language_model"] == 7_721_324_544
    assert sizes["aligner"] + sizes["vision_tower"] == 1_935_610_624


def test_tiny_checkpoint_has_the_names_and_shapes_of_its_configuration(golden_dir):
    tensors = open_checkpoint(golden_dir).tensors
    config = QwenVLConfig.from_file(golden_dir)
    assert WEIGHTS.shapes(config, HUGGING_FACE) == {name: tensor.shape for name, tensor in tensors.items()}
