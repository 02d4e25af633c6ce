"""A merged base is PEFT's ``merge_and_unload`` bit for bit, whatever way the adapter was made."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import peft
import pytest
import torch
from safetensors.torch import load_file, save_file

from ms_impl import families
from ms_impl.adapters import files
from ms_impl.adapters.config import CONFIG_NAME
from ms_impl.adapters.files import TORCH_NAME, WEIGHTS_NAME
from ms_impl.adapters.merging import merged_checkpoint
from ms_impl.errors import InputError
from ms_impl.io.checkpoint import open_checkpoint
from ms_impl.qwenvl.config import QwenVLConfig
from torch_ref.qwenvl.model import QwenVL

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
VISION = r"^transformer\.visual(?=\.).*\.(in_proj|c_fc|kv_proj)"
SETTINGS = {
    "names": {"target_modules": ["c_attn", "w1"], "modules_to_save": ["wte", "ln_f"]},
    "text": {"target_modules": r".*\.h\.\d+\.(attn|mlp)\.c_proj"},
    "vision": {"target_modules": VISION, "modules_to_save": ["attn_pool.ln_kv"]},
    "all-linear": {"target_modules": "all-linear"},
    "all-linear, but": {"target_modules": "All-Linear", "exclude_modules": r"(.*\.visual\..*|lm_head)"},
    "excluded names": {"target_modules": ["c_attn", "w1", "w2"], "exclude_modules": ["h.1.mlp.w2", "visual"]},
    "rslora": {"target_modules": ["w1"], "use_rslora": True, "r": 5},
    "patterns": {
        "target_modules": ["c_attn", "w1", "attn.c_proj"],
        "rank_pattern": {r".*\.1\.attn\.c_attn": 3, "c_attn": 7, "w1": 2},  # in PEFT's order, which sorts
        "alpha_pattern": {r".*c_(attn|proj)": 5.5, "transformer.h.0.mlp.w1": 3},
        "use_rslora": True,
    },
    "layers": {"target_modules": ["c_attn", "w1"], "layers_to_transform": 1},
    "layers of one list": {
        "target_modules": ["c_proj", "transformer.h.1.mlp.w1"],
        "layers_to_transform": [0],
        "layers_pattern": ["h"],
    },
    "names that are not there": {"target_modules": ["q_proj", "c_attn"], "rank_pattern": {"q_proj": 2}},
    "embedding": {"target_modules": ["wte", "w2"]},
    "output head": {"target_modules": ["lm_head", "w2"]},
    "fan_in_fan_out": {"target_modules": ["w1"], "fan_in_fan_out": True},
    "orthogonal": {"target_modules": ["w1"], "init_lora_weights": "orthogonal", "r": 4},
    "high rank": {"target_modules": ["w1"], "r": 192},
}


class Reference(QwenVL):
    """torch_ref with what PEFT asks a Hugging Face model for."""

    def get_input_embeddings(self):
        return self.transformer.wte

    def get_output_embeddings(self):
        return self.lm_head


@pytest.fixture
def base(golden_dir, tmp_path):
    """Write the golden weights in another type; returns the directory."""

    def make(dtype: str) -> Path:
        directory = tmp_path / dtype
        directory.mkdir()
        tensors = load_file(golden_dir / "model.safetensors")
        tensors = {name: tensor.to(DTYPES[dtype]) for name, tensor in tensors.items()}
        save_file(tensors, directory / WEIGHTS_NAME.replace("adapter_", ""), metadata={"format": "pt"})
        (directory / "config.json").write_bytes((golden_dir / "config.json").read_bytes())
        return directory

    return make


def reference(directory: Path, dtype: str) -> Reference:
    return Reference.from_pretrained(directory).to(DTYPES[dtype])


def adapter(directory: Path, dtype: str, **settings) -> Path:
    """Made, moved and saved by PEFT, on a base in that type."""
    torch.manual_seed(0)
    options = {key: settings.pop(key) for key in ("save_embedding_layers",) if key in settings}
    model = peft.get_peft_model(reference(directory, dtype), peft.LoraConfig(**{"r": 8, "lora_alpha": 12, **settings}))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += (0.05 * torch.randn(parameter.shape)).to(parameter.dtype)
    model.save_pretrained(directory / "adapter", **options)
    return directory / "adapter"


def by_peft(directory: Path, dtype: str) -> dict[str, torch.Tensor]:
    model = peft.PeftModel.from_pretrained(reference(directory, dtype), directory / "adapter")
    return model.merge_and_unload().state_dict()


def merged(directory: Path) -> dict[str, torch.Tensor]:
    stored, family = files.read(directory / "adapter"), families.get("qwenvl")
    config = QwenVLConfig.from_file(directory / "config.json")
    tensors = merged_checkpoint(open_checkpoint(directory), stored, family, config).tensors.values()
    return {tensor.name: as_torch(tensor) for tensor in tensors}


def as_torch(tensor) -> torch.Tensor:
    values = torch.from_numpy(tensor.array().copy().view(f"i{tensor.dtype.itemsize}"))
    return values.view(DTYPES[tensor.dtype.name])


def assert_equal(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    differ = {name: float((found[name].float() - tensor.float()).abs().max()) for name, tensor in expected.items()
              if found[name].dtype != tensor.dtype or not torch.equal(found[name], tensor)}  # fmt: skip
    assert not differ


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_equal_to_pefts_merge(base, dtype, settings):
    directory = base(dtype)
    adapter(directory, dtype, **settings)
    expected = by_peft(directory, dtype)
    assert_equal(merged(directory), expected)
    before = load_file(directory / "model.safetensors")
    assert any(not torch.equal(before[name], tensor) for name, tensor in expected.items())


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("stored", ["fp16", "bf16"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_factors_in_16_bits(base, dtype, stored):
    directory = base(dtype)
    path = adapter(directory, dtype, target_modules=["w1", "wte"]) / WEIGHTS_NAME
    save_file({name: tensor.to(DTYPES[stored]) for name, tensor in load_file(path).items()}, path)
    assert_equal(merged(directory), by_peft(directory, dtype))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_torch_file(base, dtype):
    directory = base(dtype)
    path = adapter(directory, dtype, target_modules=["w1"], modules_to_save=["lm_head"])
    expected = by_peft(directory, dtype)
    tensors = load_file(path / WEIGHTS_NAME)
    (path / WEIGHTS_NAME).unlink()
    torch.save(tensors, path / TORCH_NAME)
    assert_equal(merged(directory), expected)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("targets", [["w1"], ["w1", "lm_head"], ["wte", "lm_head"]])
@pytest.mark.parametrize("dtype", DTYPES)
def test_embeddings_saved_with_the_adapter_replace_the_bases(base, dtype, targets):
    directory = base(dtype)
    path = adapter(directory, dtype, target_modules=targets, save_embedding_layers=True) / WEIGHTS_NAME
    tensors = load_file(path)
    brought = {name for name in tensors if ".lora_" not in name}
    assert brought and all(name.endswith((".base_layer.weight", "wte.weight", "lm_head.weight")) for name in brought)
    save_file({name: 2 * tensor if name in brought else tensor for name, tensor in tensors.items()}, path)
    assert_equal(merged(directory), by_peft(directory, dtype))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["h.0.mlp.w1.lora_B.weight", "ln_f.weight"])
def test_values_that_are_not_finite_are_refused_by_tensor(base, name, value):
    directory = base("fp32")
    path = adapter(directory, "fp32", target_modules=["w1"], modules_to_save=["ln_f"]) / WEIGHTS_NAME
    tensors = load_file(path)
    tensors[f"base_model.model.transformer.{name}"].view(-1)[3:5] = value
    save_file(tensors, path)
    with pytest.raises(InputError, match=f"2 of the [0-9,]+ values of tensor 'transformer.{name}' are not finite"):
        merged(directory)


@pytest.mark.filterwarnings("ignore")
def test_sums_that_are_not_finite_are_refused_and_those_beyond_fp16_counted(base):
    directory = base("fp16")
    path = adapter(directory, "fp16", target_modules=["w1"]) / WEIGHTS_NAME
    tensors = load_file(path)
    name = "base_model.model.transformer.h.0.mlp.w1.lora_B.weight"
    save_file({**tensors, name: 1e6 * tensors[name]}, path)
    config = QwenVLConfig.from_file(directory / "config.json")

    def weight():
        job = merged_checkpoint(open_checkpoint(directory), files.read(path.parent), families.get("qwenvl"), config)
        return job.tensors["transformer.h.0.mlp.w1.weight"]

    too_large = weight()
    infinite = np.isinf(too_large.array()).sum()
    assert infinite and too_large.loss.overflow == infinite
    factor = name.replace("_B", "_A")
    save_file({**tensors, name: torch.full_like(tensors[name], 3e38), factor: 1e6 * tensors[factor]}, path)
    with pytest.raises(InputError, match="w1.weight: [0-9,]+ values are not finite after merging"):
        weight().array()


@pytest.mark.filterwarnings("ignore")
def test_a_target_that_is_no_linear_layer_is_named(base):
    directory = base("fp32")
    adapter(directory, "fp32", target_modules=["conv1", "w1"])  # PEFT can adapt a convolution
    with pytest.raises(InputError, match="'conv1' matches transformer.visual.conv1 too, which is not a linear layer"):
        merged(directory)


@pytest.mark.filterwarnings("ignore")
def test_an_expression_that_never_ends_is_refused(base):
    directory = base("fp32")
    path = adapter(directory, "fp32", target_modules=["w1"]) / CONFIG_NAME
    raw = json.loads(path.read_text())
    path.write_text(json.dumps({**raw, "target_modules": r"((\w+\.?)+)+!"}))
    with pytest.raises(InputError, match="take too long or too much memory"):
        merged(directory)
