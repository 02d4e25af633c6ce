"""Adapters go to PEFT on torch_ref and come from it: equal logits of rows with images, and equal merged weights."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path

import mindspore as ms
import numpy as np
import peft
import pytest
import torch
from mindspore import Tensor
from ovis_mindspore import OvisSide
from ovis_reference import Reference
from safetensors.numpy import load_file, save_file
from stages import ACTIVATION, error

from ms_impl import families
from ms_impl.adapters import files
from ms_impl.adapters.adapter import inject
from ms_impl.adapters.config import LoraConfig
from ms_impl.adapters.files import WEIGHTS_NAME
from ms_impl.adapters.merging import merged_checkpoint
from ms_impl.io.checkpoint import open_checkpoint

FAMILY = families.get("ovis2_5")
# Layers of the language model, of the tower, and the one that scores the visual vocabulary.
TARGETS = ("q_proj", "down_proj", "out_proj", "fc1", "visual_tokenizer.head.0")
ORIGINAL = r"llm\..*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"
EXCHANGED = {
    "layers of the decoder": ("llm.model.layers.0.mlp.down_proj", "llm.model.layers.1.mlp.down_proj"),
    "layers of the tower": tuple(f"visual_tokenizer.vit.vision_model.encoder.layers.{n}.mlp.fc1" for n in (0, 1)),
}


@pytest.fixture(scope="module", autouse=True)
def graphs_again():
    yield
    ms.set_context(mode=ms.GRAPH_MODE)


@pytest.fixture(scope="module")
def ours(golden, tmp_path_factory) -> tuple[OvisSide, Path]:
    """A side with an adapter that was moved in all its numbers, as training does, and where it is saved."""
    side, directory = OvisSide(golden.folder, "pynative", "fp32"), tmp_path_factory.mktemp("adapter")
    adapter = inject(side.model, LoraConfig(TARGETS, r=4, lora_alpha=8), FAMILY, seed=0)
    chance = np.random.default_rng(1)
    for parameter in adapter.parameters().values():
        moved = parameter.asnumpy() + chance.normal(0, 0.05, parameter.shape)
        parameter.set_data(Tensor(moved.astype(np.float32)))
    adapter.save(directory)
    return side, directory


def logits(side: OvisSide | Reference, golden) -> np.ndarray:
    """Of all real tokens of the training batch."""
    batch = golden.batch()
    return side.logits(batch)["logits"][batch["segment_ids"] > 0]


def by_peft(reference: Reference, directory: Path) -> Reference:
    """torch_ref with the adapter of a directory."""
    model = deepcopy(reference.model)
    model.prepare_inputs_for_generation = None  # PEFT asks a causal language model for it
    return Reference(peft.PeftModel.from_pretrained(model, directory).base_model.model)


def test_peft_loads_ours(golden, reference, ours, table):
    side, directory = ours
    theirs = by_peft(reference, directory)
    table.check("ovis LoRA / PEFT", "logits, ours in PEFT", logits(side, golden), logits(theirs, golden), ACTIVATION)
    assert error(logits(theirs, golden), logits(reference, golden)) > 0.05  # the adapter says something


@pytest.mark.parametrize("exchanged", EXCHANGED.values(), ids=EXCHANGED)
def test_negative_control_exchanged_factors_give_other_logits(golden, reference, ours, exchanged, tmp_path):
    side, directory = ours
    for file in directory.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    tensors = load_file(tmp_path / WEIGHTS_NAME)
    one, other = (f"base_model.model.{module}.lora_B.weight" for module in exchanged)
    tensors[one], tensors[other] = tensors[other], tensors[one]
    save_file(tensors, tmp_path / WEIGHTS_NAME)
    assert error(logits(side, golden), logits(by_peft(reference, tmp_path), golden)) > 100 * ACTIVATION


def peft_adapter(reference: Reference, directory: Path, **settings) -> peft.PeftModel:
    """Made, moved and saved by PEFT."""
    torch.manual_seed(0)
    adapted = peft.get_peft_model(deepcopy(reference.model), peft.LoraConfig(r=4, lora_alpha=8, **settings))
    with torch.no_grad():
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter += 0.05 * torch.randn_like(parameter)
    adapted.save_pretrained(directory)
    return adapted


@pytest.mark.parametrize(
    "settings", [{"target_modules": list(TARGETS)}, {"target_modules": ORIGINAL, "use_rslora": True}],
    ids=["everywhere", "the original's"],
)  # fmt: skip
def test_ours_loads_pefts_and_merges_it(golden, reference, table, tmp_path, settings):
    adapted = peft_adapter(reference, tmp_path, **settings)
    wanted = logits(Reference(adapted.base_model.model), golden)
    side = OvisSide(golden.folder, "pynative", "fp32")
    inject(side.model, LoraConfig.read(tmp_path), FAMILY, seed=0).load(tmp_path)
    table.check("ovis LoRA / PEFT", "logits, PEFT's in ours", logits(side, golden), wanted, ACTIVATION)
    merged = merged_checkpoint(open_checkpoint(golden.folder), files.read(tmp_path), FAMILY, golden.config).tensors
    by_them = adapted.merge_and_unload().state_dict()
    assert merged.keys() <= by_them.keys()
    differ = [name for name in merged if not np.array_equal(merged[name].array(), by_them[name].numpy())]
    assert not differ
