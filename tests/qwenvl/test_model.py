"""The MindSpore model as a whole: its full size, its freezing, its text-only batches."""

from __future__ import annotations

import json
import resource
from pathlib import Path

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor
from mindspore.nn.utils import no_init_parameters

from ms_impl import families
from ms_impl.io.rules import MINDSPORE
from ms_impl.qwenvl.config import QwenVLConfig
from ms_impl.qwenvl.model import QwenVL
from ms_impl.qwenvl.resampler import PositionResizer

ROOT = Path(__file__).parents[2]
FULL_SIZE = ROOT / "configs" / "qwenvl" / "qwenvl_9.6b"
RELEASED = json.loads((ROOT / "tests/golden/qwenvl_9.6b_shapes.json").read_text())
SHAPES = {name: tuple(shape) for name, shape in RELEASED.items()}


@pytest.fixture(scope="module")
def full_size():
    """The 9.6B model by name and shape, and the memory that building it took, in bytes."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with no_init_parameters():
        model = QwenVL(QwenVLConfig.from_file(FULL_SIZE), ms.bfloat16)
    return model, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024


def test_full_size_has_the_released_names_and_shapes(full_size):
    model, memory = full_size
    found = {name: tuple(parameter.shape) for name, parameter in model.parameters_dict().items()}
    assert found == SHAPES
    assert len(found) == 853
    assert memory < 1e9, "building by name and shape must not allocate the weights"


def test_full_size_agrees_with_the_weight_map():
    table = families.get("qwenvl").resolve("weights")
    assert table.shapes(QwenVLConfig.from_file(FULL_SIZE), MINDSPORE) == SHAPES


def test_stage_3_trains_what_the_official_fine_tuning_trains(full_size):
    model, _ = full_size
    model.freeze(("vision_tower",))
    assert sum(int(np.prod(p.shape)) for p in model.trainable_params()) == 7_797_379_072


@pytest.fixture
def tiny(golden_dir):
    ms.set_context(mode=ms.PYNATIVE_MODE)
    return QwenVL(QwenVLConfig.from_file(golden_dir))


def test_a_text_only_batch_gives_the_vision_tower_gradients_of_zero(tiny):
    config = tiny.config
    ids = Tensor(np.arange(24, dtype=np.int32)[None])
    images = Tensor(np.zeros((1, 1, 3, config.visual.image_size, config.visual.image_size), np.float32))
    absent = Tensor(np.full((1, 1, config.num_queries), 24, np.int32))
    tiny.set_train(True)
    parameters = tiny.trainable_params()
    _, gradients = ms.value_and_grad(tiny, None, parameters)(ids, images, absent, ids)
    by_name = {parameter.name: gradient.asnumpy() for parameter, gradient in zip(parameters, gradients)}
    for name, gradient in by_name.items():
        assert bool(gradient.any()) == (not name.startswith("transformer.visual.")), name


def test_padding_does_not_change_a_text(tiny):
    tiny.set_train(False)
    ids = np.arange(20, dtype=np.int32)[None]
    alone = tiny(Tensor(ids)).asnumpy()
    padded = Tensor(np.pad(ids, ((0, 0), (0, 7))))
    segments = Tensor(np.pad(np.ones_like(ids), ((0, 0), (0, 7))))
    np.testing.assert_allclose(tiny(padded, segment_ids=segments).asnumpy()[:, :20], alone, atol=1e-5)


def test_positions_of_bf16_are_resized_in_fp32_and_not_rounded_again():
    table = Tensor(np.random.default_rng(0).normal(size=(16, 8)).astype(np.float32), ms.bfloat16)
    resize = PositionResizer(16, 8)
    found = resize(table)
    assert found.dtype == ms.float32
    np.testing.assert_array_equal(found.asnumpy(), resize(table.astype(ms.float32)).asnumpy())
    assert (found.asnumpy() != found.astype(ms.bfloat16).astype(ms.float32).asnumpy()).any()
