"""A tiny Qwen-VL with LoRA layers."""

from __future__ import annotations

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor

from ms_impl import families
from ms_impl.adapters.adapter import Adapter, inject
from ms_impl.adapters.config import LoraConfig
from ms_impl.qwenvl.config import QwenVLConfig
from ms_impl.qwenvl.model import QwenVL
from ms_impl.weights import load_weights


@pytest.fixture(params=[ms.GRAPH_MODE, ms.PYNATIVE_MODE], ids=["graph", "pynative"])
def mode(request):
    before = ms.get_context("mode")
    ms.set_context(mode=request.param)
    yield request.param
    ms.set_context(mode=before)


@pytest.fixture
def family():
    return families.get("qwenvl")


@pytest.fixture
def settings() -> LoraConfig:
    """The official settings for the base model, but for the rank."""
    targets = ("c_attn", "attn.c_proj", "w1", "w2")
    return LoraConfig(targets, r=4, lora_alpha=16, lora_dropout=0.05, modules_to_save=("wte", "lm_head"))


@pytest.fixture
def adapted(golden_dir, family, settings):
    """Make a model with the golden weights and an adapter in it; ``moved`` by random values, as training does."""

    def make(config: LoraConfig = settings, moved: bool = True, dtype: ms.Type = ms.float32) -> tuple[QwenVL, Adapter]:
        model = QwenVL(QwenVLConfig.from_file(golden_dir), param_dtype=dtype)
        load_weights(model, golden_dir, family)
        adapter = inject(model, config, family, seed=0, rows=2)
        if moved:
            move(adapter)
        return model.set_train(False), adapter

    return make


def move(adapter: Adapter) -> None:
    """Change all that is trained."""
    rng = np.random.default_rng(1)
    for parameter in adapter.parameters().values():
        values = parameter.asnumpy().astype(np.float32) + rng.normal(0, 0.05, parameter.shape)
        parameter.set_data(Tensor(values.astype(np.float32), parameter.dtype))


@pytest.fixture
def input_ids() -> np.ndarray:
    return np.random.default_rng(2).integers(0, 500, (2, 24)).astype(np.int32)
