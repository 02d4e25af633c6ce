"""Adapters go to PEFT and come from it: the same logits on torch_ref as on ours."""

from __future__ import annotations

import numpy as np
import peft
import pytest
import torch
from mindspore import Tensor
from safetensors.numpy import load_file, save_file

from ms_impl.adapters.adapter import inject
from ms_impl.adapters.config import LoraConfig
from ms_impl.adapters.files import WEIGHTS_NAME
from ms_impl.errors import InputError
from ms_impl.qwenvl.config import QwenVLConfig
from ms_impl.qwenvl.model import QwenVL
from ms_impl.weights import load_weights
from torch_ref.qwenvl.model import QwenVL as Reference

TOLERANCE = 1e-5  # rms(difference) / rms(reference), fp32
PREFIX = "base_model.model.transformer.h"


def distance(found: np.ndarray, reference: np.ndarray) -> float:
    return float(np.sqrt(np.square(found - reference).mean() / np.square(reference).mean()))


@pytest.fixture
def reference(golden_dir):
    """torch_ref, with the one method that PEFT asks a causal language model for; it is not called."""
    model = Reference.from_pretrained(golden_dir)
    model.prepare_inputs_for_generation = None
    return model


def torch_logits(model, input_ids) -> np.ndarray:
    with torch.no_grad():
        return model(torch.tensor(input_ids)).numpy()


def peft_logits(reference, directory, input_ids) -> np.ndarray:
    adapted = peft.PeftModel.from_pretrained(reference, directory)
    return torch_logits(adapted.base_model, input_ids)


@pytest.mark.filterwarnings("error")
def test_peft_loads_ours(adapted, reference, input_ids, tmp_path):
    model, adapter = adapted()
    before = torch_logits(reference, input_ids)
    adapter.save(tmp_path)
    ours, theirs = model(Tensor(input_ids)).asnumpy(), peft_logits(reference, tmp_path, input_ids)
    assert distance(ours, theirs) < TOLERANCE
    assert distance(before, theirs) > 0.1


WAYS = {
    "text": LoraConfig(r".*\.h\.\d+\.mlp\.(w1|c_proj)", r=4),
    "all-linear": LoraConfig("all-linear", r=4),
    "excluded": LoraConfig(("c_attn", "w1", "w2"), r=4, exclude_modules=("h.1.mlp.w1", "h.0.mlp.w2")),
    "excluded by a text": LoraConfig(("language_model",), r=4, exclude_modules=r".*\.(attn|mlp)\.c_\w+"),
    "layers": LoraConfig(("c_attn", "w1"), r=4, layers_to_transform=(1,), layers_pattern=("h",)),
    "layers of a group": LoraConfig(("language_model",), r=4, layers_to_transform=(1,)),
    "rslora and patterns": LoraConfig(
        ("c_attn", "w1"),
        r=4,
        lora_alpha=16,
        use_rslora=True,
        rank_pattern={r"h\.0\..*": 2, "c_attn": 3},
        alpha_pattern={"w1": 3.5},
    ),
    "output head": LoraConfig(("lm_head", "w1"), r=4),
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("config", WAYS.values(), ids=WAYS)
def test_peft_loads_ours_however_its_layers_are_named(adapted, reference, input_ids, tmp_path, config):
    model, adapter = adapted(config)
    before = torch_logits(reference, input_ids)
    adapter.save(tmp_path)
    ours, theirs = model(Tensor(input_ids)).asnumpy(), peft_logits(reference, tmp_path, input_ids)
    assert distance(ours, theirs) < TOLERANCE
    assert distance(before, theirs) > 0.05


def test_peft_loads_groups_of_the_vision_side(adapted, reference, tmp_path):
    model, adapter = adapted(LoraConfig(("vision_tower", "aligner"), r=4, lora_dropout=0.05))
    adapter.save(tmp_path)
    visual = model.config.visual
    images = np.random.default_rng(4).normal(size=(1, 3, visual.image_size, visual.image_size)).astype(np.float32)
    with torch.no_grad():
        before = reference.encode_images(torch.tensor(images)).numpy()
        theirs = peft.PeftModel.from_pretrained(reference, tmp_path).encode_images(torch.tensor(images)).numpy()
    assert distance(model.encode_images(Tensor(images)).asnumpy(), theirs) < TOLERANCE
    assert distance(before, theirs) > 0.1


def exchange(tensors, one: str, other: str) -> None:
    tensors[one], tensors[other] = tensors[other], tensors[one]


@pytest.mark.parametrize(
    "spoil",
    [
        lambda tensors: exchange(tensors, f"{PREFIX}.0.mlp.w1.lora_A.weight", f"{PREFIX}.0.mlp.w2.lora_A.weight"),
        lambda tensors: exchange(tensors, f"{PREFIX}.0.mlp.w1.lora_B.weight", f"{PREFIX}.1.mlp.w1.lora_B.weight"),
        lambda tensors: tensors.update({f"{PREFIX}.1.attn.c_proj.lora_B.weight": np.zeros((128, 4), np.float32)}),
    ],
    ids=["exchanged projections", "exchanged layers", "one layer left out"],
)
def test_negative_control_a_spoiled_adapter_gives_other_logits(adapted, reference, input_ids, tmp_path, spoil):
    model, adapter = adapted()
    adapter.save(tmp_path)
    tensors = load_file(tmp_path / WEIGHTS_NAME)
    spoil(tensors)
    save_file(tensors, tmp_path / WEIGHTS_NAME)
    ours, theirs = model(Tensor(input_ids)).asnumpy(), peft_logits(reference, tmp_path, input_ids)
    assert distance(ours, theirs) > 100 * TOLERANCE


@pytest.fixture
def pefts_own(reference, tmp_path):
    """An adapter that PEFT made on torch_ref, moved and saved; and the model."""

    def make(**changes):
        settings = {"r": 4, "lora_alpha": 16, "target_modules": ["c_attn", "w1"], "modules_to_save": ["wte", "ln_f"]}
        torch.manual_seed(0)
        adapted = peft.get_peft_model(reference, peft.LoraConfig(**settings | changes)).eval()
        with torch.no_grad():
            for parameter in adapted.parameters():
                if parameter.requires_grad:
                    parameter += 0.05 * torch.randn_like(parameter)
        adapted.save_pretrained(tmp_path)
        return tmp_path, adapted

    return make


@pytest.mark.parametrize("whole", [["wte", "ln_f"], ["attn_pool", "lm_head"], None])
def test_ours_loads_pefts(pefts_own, golden_dir, family, input_ids, whole):
    directory, theirs = pefts_own(modules_to_save=whole)
    model = QwenVL(QwenVLConfig.from_file(golden_dir))
    load_weights(model, golden_dir, family)
    adapter = inject(model, LoraConfig.read(directory), family, seed=0)
    adapter.load(directory)
    ours, expected = model.set_train(False)(Tensor(input_ids)).asnumpy(), torch_logits(theirs.base_model, input_ids)
    assert distance(ours, expected) < TOLERANCE


@pytest.fixture
def with_embeddings(reference):
    """torch_ref, which tells PEFT its embedding and output head, as Hugging Face's models do."""
    reference.get_input_embeddings = lambda: reference.transformer.wte
    reference.get_output_embeddings = lambda: reference.lm_head


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "settings",
    [
        {"target_modules": r".*\.(c_attn|w1)"},
        {"target_modules": ["lm_head", "w1"]},
        {"target_modules": ["w1", "w2"], "rank_pattern": {"h.1.mlp.w1": 2}, "use_rslora": True},
    ],
)
def test_ours_loads_pefts_of_other_kinds(with_embeddings, pefts_own, golden_dir, family, input_ids, settings):
    directory, theirs = pefts_own(modules_to_save=None, **settings)
    model = QwenVL(QwenVLConfig.from_file(golden_dir))
    load_weights(model, golden_dir, family)
    adapter = inject(model, LoraConfig.read(directory), family, seed=0)
    adapter.load(directory)
    ours, expected = model.set_train(False)(Tensor(input_ids)).asnumpy(), torch_logits(theirs.base_model, input_ids)
    assert distance(ours, expected) < TOLERANCE
    if "lm_head" in settings["target_modules"]:
        assert "base_model.model.lm_head.base_layer.weight" in load_file(directory / WEIGHTS_NAME)
        head = model.parameters_dict()["lm_head.weight"]
        head.set_data(head * 1.5)
        with pytest.raises(InputError, match="brings lm_head.weight of a base that differs from the one loaded"):
            adapter.load(directory)


def test_pefts_adapter_is_saved_again_as_it_was(pefts_own, golden_dir, family, tmp_path):
    directory, _ = pefts_own()
    model = QwenVL(QwenVLConfig.from_file(golden_dir))
    load_weights(model, golden_dir, family)
    adapter = inject(model, LoraConfig.read(directory), family, seed=0)
    adapter.load(directory)
    again = tmp_path / "again"
    again.mkdir()
    adapter.save(again)
    before, after = load_file(directory / WEIGHTS_NAME), load_file(again / WEIGHTS_NAME)
    assert before.keys() == after.keys()
    assert all(np.array_equal(before[name], after[name]) for name in before)
