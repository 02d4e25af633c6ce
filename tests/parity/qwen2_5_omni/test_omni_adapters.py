"""Adapters go to PEFT on transformers' thinker and come from it: equal logits on text, images, videos and sounds."""

from __future__ import annotations

import shutil
from copy import deepcopy
from pathlib import Path

import numpy as np
import peft
import pytest
import torch
from mindspore import Tensor
from omni_reference import Reference
from omni_side import OmniSide
from omni_stages import ACTIVATION
from safetensors.numpy import load_file, save_file
from stages import error

from ms_impl import families
from ms_impl.adapters.adapter import inject
from ms_impl.adapters.config import LoraConfig
from ms_impl.adapters.files import WEIGHTS_NAME

pytestmark = pytest.mark.filterwarnings("ignore")
FAMILY = families.get("qwen2_5_omni")
EVERYWHERE = LoraConfig("all-linear", r=4, lora_alpha=8)
LANGUAGE_MODEL = r"^(model.*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj))$"  # ms-swift's all-linear
FACTOR = "base_model.model.{}.lora_B.weight"
EXCHANGED = {
    "layers of the decoder": ("model.layers.0.mlp.up_proj", "model.layers.1.mlp.up_proj"),
    "layers of the audio tower": ("audio_tower.layers.0.fc2", "audio_tower.layers.1.fc2"),
    "blocks of the vision tower": ("visual.blocks.1.attn.q", "visual.blocks.2.attn.q"),
}


@pytest.fixture(scope="module")
def ours(vectors, training_rows, tmp_path_factory) -> tuple[list[np.ndarray], Path]:
    """The logits of each row with an adapter that was moved in all its numbers, as training does; and its directory."""
    directory, side = tmp_path_factory.mktemp("ours"), OmniSide(vectors, "pynative")
    adapter = inject(side.model, EVERYWHERE, FAMILY, seed=0)
    chance = np.random.default_rng(1)
    for parameter in adapter.parameters().values():
        moved = parameter.asnumpy() + chance.normal(0, 0.05, parameter.shape)
        parameter.set_data(Tensor(moved.astype(np.float32)))
    adapter.save(directory)
    return side.logits(training_rows), directory


def by_peft(vectors, original, directory) -> Reference:
    """transformers with the adapter of a directory."""
    return Reference(vectors, peft.PeftModel.from_pretrained(deepcopy(original.model), directory).base_model.model)


def distances(found: Reference | list[np.ndarray], reference: Reference, rows) -> list[float]:
    """Of the logits of each row of the training case, which has every medium."""
    given = found.logits("train") if isinstance(found, Reference) else found
    wanted = reference.logits("train")
    return [error(given[i][: len(row.ids)][row.real], wanted[i][row.real]) for i, row in enumerate(rows)]


def check(table, what: str, found: list[np.ndarray], theirs: Reference, rows) -> None:
    """Every row's logits, beside what rounding alone does to PEFT's."""
    wanted, floors = theirs.logits("train"), distances(theirs, theirs.exact(), rows)
    for number, (logits, row) in enumerate(zip(found, rows)):
        real = row.real
        table.check("omni LoRA / PEFT", what, logits[real], wanted[number][real], ACTIVATION, floors[number])


def test_peft_loads_ours(vectors, original, ours, training_rows, table):
    theirs = by_peft(vectors, original, ours[1])
    check(table, "logits, ours in PEFT", ours[0], theirs, training_rows)
    assert min(distances(theirs, original, training_rows)) > 0.05  # the adapter says something


@pytest.mark.parametrize(
    "settings",
    [
        {"target_modules": "all-linear"},
        {"target_modules": LANGUAGE_MODEL, "use_rslora": True},
        {
            "target_modules": ["q_proj", "fc1", "visual.merger.mlp.0"],
            "modules_to_save": ["lm_head", "audio_tower.proj"],
        },
    ],
    ids=["all-linear", "language model", "lists and whole modules"],
)
def test_ours_loads_pefts(vectors, original, training_rows, tmp_path, table, settings):
    torch.manual_seed(0)
    adapted = peft.get_peft_model(deepcopy(original.model), peft.LoraConfig(r=4, lora_alpha=8, **settings))
    with torch.no_grad():
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter += 0.05 * torch.randn_like(parameter)
    adapted.save_pretrained(tmp_path)
    theirs, side = Reference(vectors, adapted.base_model.model), OmniSide(vectors, "pynative")
    inject(side.model, LoraConfig.read(tmp_path), FAMILY, seed=0).load(tmp_path)
    check(table, "logits, PEFT's in ours", side.logits(training_rows), theirs, training_rows)


@pytest.mark.parametrize("exchanged", EXCHANGED.values(), ids=EXCHANGED)
def test_negative_control_exchanged_factors_give_other_logits(
    vectors, original, ours, training_rows, tmp_path, exchanged
):
    directory = Path(shutil.copytree(ours[1], tmp_path / "exchanged"))
    tensors = load_file(directory / WEIGHTS_NAME)
    one, other = map(FACTOR.format, exchanged)
    tensors[one], tensors[other] = tensors[other], tensors[one]
    save_file(tensors, directory / WEIGHTS_NAME)
    assert max(distances(ours[0], by_peft(vectors, original, directory), training_rows)) > 100 * ACTIVATION
