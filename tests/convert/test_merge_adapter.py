"""merge_adapter.py: what PEFT's merge_and_unload gives, from any base, and what it refuses."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import peft
import pytest
import torch
from safetensors.torch import load_file, save_file

from convert.merge_adapter import main
from ms_impl.adapters import base_check, files
from ms_impl.adapters.files import WEIGHTS_NAME
from ms_impl.adapters.merging import MergedTensor
from ms_impl.io import safetensors_files
from ms_impl.io.dtypes import FP16, FP32
from ms_impl.io.tensors import ArrayTensor
from torch_ref.qwenvl.model import QwenVL

ROOT = Path(__file__).parents[2]
SETTINGS = {"r": 8, "lora_alpha": 16, "target_modules": ["c_attn", "w1"], "modules_to_save": ["wte", "ln_f"]}
MADE_ON = "models/Qwen-VL"
TORCH_DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}


@pytest.fixture
def adapter(tiny, tmp_path) -> Path:
    """An adapter that PEFT made and saved."""
    torch.manual_seed(0)
    model = peft.get_peft_model(QwenVL.from_pretrained(tiny), peft.LoraConfig(**SETTINGS))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += 0.05 * torch.randn_like(parameter)
    model.save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter"


@pytest.fixture
def merge(capsys):
    """Run the command; returns its exit status and what it wrote to the two streams."""

    def run(*arguments):
        status = main(["--model", "qwenvl", *map(str, arguments)])
        streams = capsys.readouterr()
        return status, streams.out, streams.err

    return run


def merged_by_peft(tiny: Path, adapter: Path) -> dict[str, torch.Tensor]:
    return peft.PeftModel.from_pretrained(QwenVL.from_pretrained(tiny), adapter).merge_and_unload().state_dict()


def test_a_checkpoint_directory_equal_to_pefts_merge(tiny, adapter, merge, tmp_path):
    status, out, _ = merge("--input_path", tiny, "--adapter", adapter, "--output_path", f"{tmp_path}/out/")
    assert status == 0 and out.startswith(f"merged {adapter} into {tiny} (Hugging Face, fp32)")
    found, expected = load_file(tmp_path / "out/model.safetensors"), merged_by_peft(tiny, adapter)
    assert found.keys() == expected.keys()
    original = load_file(tiny / "model.safetensors")
    changed = set()
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name
        if not torch.equal(found[name], original[name]):
            changed.add(name)
    layers = {f"transformer.h.{n}.{m}.weight" for n in range(2) for m in ("attn.c_attn", "mlp.w1")}
    assert changed == layers | {"transformer.wte.weight", "transformer.ln_f.weight"}
    for name in ("config.json", "qwen.tiktoken"):
        assert (tmp_path / "out" / name).read_bytes() == (tiny / name).read_bytes()
    model = QwenVL.from_pretrained(tmp_path / "out")
    assert model.lm_head.weight.dtype == torch.float32


def test_an_adapters_files_in_the_bases_directory_stay_there(tiny, adapter, merge, tmp_path):
    for name in ("adapter_config.json", WEIGHTS_NAME):
        (tiny / name).write_bytes((adapter / name).read_bytes())
    assert merge("--input_path", tiny, "--adapter", tiny, "--output_path", f"{tmp_path}/out/")[0] == 0
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"config.json", "model.safetensors", "qwen.tiktoken"}


def test_an_alpha_that_is_not_finite_is_refused(tiny, adapter, merge, tmp_path):
    path = adapter / "adapter_config.json"
    path.write_text(path.read_text().replace('"lora_alpha": 16', '"lora_alpha": NaN'))
    status, _, error = merge("--input_path", tiny, "--adapter", adapter, "--output_path", f"{tmp_path}/out/")
    assert status == 2 and not (tmp_path / "out").exists()
    assert error.startswith(f"error: {path}: lora_alpha is nan; expected a number above 0")


def test_what_becomes_infinite_in_fp16_is_counted(tiny, adapter, merge, tmp_path):
    tensors = load_file(adapter / WEIGHTS_NAME)
    name = "base_model.model.transformer.h.0.mlp.w1.lora_B.weight"
    save_file({**tensors, name: 1e6 * tensors[name]}, adapter / WEIGHTS_NAME)
    output = ("--output_path", f"{tmp_path}/out/", "--dtype", "fp16")
    status, _, error = merge("--input_path", tiny, "--adapter", adapter, *output)
    found = load_file(tmp_path / "out/model.safetensors")["transformer.h.0.mlp.w1.weight"]
    count = int(found.isinf().sum())
    assert status == 0 and count and f"w1.weight: {count:,} of {found.numel():,} values lie outside the range" in error


@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_the_sum_is_taken_in_fp32_and_rounded_once(tiny, adapter, merge, tmp_path, dtype):
    rounded = {name: tensor.to(TORCH_DTYPES[dtype]) for name, tensor in load_file(tiny / "model.safetensors").items()}
    save_file(rounded, tiny / "model.safetensors", metadata={"format": "pt"})
    arguments = ("--input_path", tiny, "--adapter", adapter, "--output_path")
    assert merge(*arguments, f"{tmp_path}/out/")[0] == 0
    assert merge(*arguments, f"{tmp_path}/full/", "--dtype", "fp32")[0] == 0
    full, found = load_file(tmp_path / "full/model.safetensors"), load_file(tmp_path / "out/model.safetensors")
    for name, tensor in full.items():
        assert torch.equal(found[name], tensor.to(TORCH_DTYPES[dtype])), name
    assert not torch.equal(full["transformer.h.0.mlp.w1.weight"], found["transformer.h.0.mlp.w1.weight"].float())


@pytest.mark.parametrize("kind", ["x.ckpt", "x.safetensors"])
def test_a_base_in_mindspores_layout(tiny, adapter, merge, convert_weight, tmp_path, kind):
    assert convert_weight("--input_path", tiny, "--output_path", tmp_path / kind)[0] == 0
    arguments = ("--adapter", adapter, "--output_path")
    assert merge("--input_path", tmp_path / kind, "--config", tiny, *arguments, tmp_path / "one.safetensors")[0] == 0
    assert merge("--input_path", tiny, *arguments, tmp_path / "other.safetensors")[0] == 0
    assert (tmp_path / "one.safetensors").read_bytes() == (tmp_path / "other.safetensors").read_bytes()


def test_negative_control_another_scaling_gives_other_weights(tiny, adapter, merge, tmp_path):
    expected = merged_by_peft(tiny, adapter)
    raw = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps({**raw, "lora_alpha": 17}))
    assert merge("--input_path", tiny, "--adapter", adapter, "--output_path", f"{tmp_path}/out/")[0] == 0
    name = "transformer.h.0.attn.c_attn.weight"
    found = load_file(tmp_path / "out/model.safetensors")[name]
    assert (found - expected[name]).abs().max() > 1e-3 * expected[name].abs().max()


def write_with_sample(directory: Path, checkpoint: Path) -> None:
    """Save the adapter again as our training does, with a sample of a base."""
    stored = files.read(directory)
    weights, _ = safetensors_files.read(checkpoint / "model.safetensors")
    adapted = {name: tensor for name, tensor in weights.items() if name.endswith(("c_attn.weight", "w1.weight"))}
    copies = [ArrayTensor(name, tensor.array().copy(), tensor.dtype) for name, tensor in stored.tensors.items()]
    files.write(directory, replace(stored.config, base_model_name_or_path=MADE_ON), copies, base_check.sample(adapted))


@pytest.mark.parametrize("dtype", TORCH_DTYPES)
def test_the_base_it_was_trained_on_in_any_type(tiny, adapter, merge, tmp_path, dtype):
    write_with_sample(adapter, tiny)
    rounded = {name: tensor.to(TORCH_DTYPES[dtype]) for name, tensor in load_file(tiny / "model.safetensors").items()}
    save_file(rounded, tiny / "model.safetensors", metadata={"format": "pt"})
    assert merge("--input_path", tiny, "--adapter", adapter, "--output_path", f"{tmp_path}/out/")[0] == 0


def test_another_base_is_refused(tiny, adapter, merge, tmp_path):
    write_with_sample(adapter, tiny)
    weights = load_file(tiny / "model.safetensors")
    weights["transformer.h.1.mlp.w1.weight"] *= 1.02
    save_file(weights, tiny / "model.safetensors", metadata={"format": "pt"})
    status, _, error = merge("--input_path", tiny, "--adapter", adapter, "--output_path", f"{tmp_path}/out/")
    assert status == 2 and not (tmp_path / "out").exists()
    assert f"the adapter {adapter}, made on {MADE_ON}, fits another base than {tiny}: 1 of the 4 weights" in error
    assert "transformer.h.1.mlp.w1.weight among them" in error


def test_an_adapter_that_does_not_fit_is_refused_with_every_fault(tiny, adapter, merge, tmp_path):
    tensors = load_file(adapter / WEIGHTS_NAME)
    prefix = "base_model.model.transformer.h"
    del tensors[f"{prefix}.0.mlp.w1.lora_A.weight"]
    tensors[f"{prefix}.2.mlp.w1.lora_A.weight"] = torch.zeros(8, 128)
    tensors[f"{prefix}.1.mlp.w1.lora_B.weight"] = torch.zeros(3, 8)
    save_file(tensors, adapter / WEIGHTS_NAME)
    status, _, error = merge("--input_path", tiny, "--adapter", adapter, "--output_path", f"{tmp_path}/out/")
    assert status == 2 and not (tmp_path / "out").exists()
    assert "missing: transformer.h.0.mlp.w1.lora_A.weight [8, 128]" in error
    assert "extra: transformer.h.2.mlp.w1.lora_A.weight [8, 128]" in error
    assert "wrong shape: transformer.h.1.mlp.w1.lora_B.weight is [3, 8], expected [352, 8]" in error


def test_neither_base_nor_adapter_is_overwritten(tiny, adapter, merge):
    for output in (tiny, adapter):
        status, _, error = merge("--input_path", tiny, "--adapter", adapter, "--output_path", f"{output}/")
        assert status == 2 and str(output) in error


def test_rows_are_merged_a_few_at_a_time_and_all_of_them(monkeypatch):
    rng = np.random.default_rng(0)
    w, a, b = (rng.normal(size=shape).astype(np.float32) for shape in ((37, 16), (4, 16), (37, 4)))
    tensors = [ArrayTensor("w", w.astype(np.float16), FP16), ArrayTensor("a", a, FP32), ArrayTensor("b", b, FP32)]
    monkeypatch.setattr("ms_impl.adapters.merging.BLOCK_BYTES", 5 * 16 * 4)
    merged = MergedTensor(*tensors, scaling=0.5)
    assert [block.size for block in merged.blocks()] == [5 * 16] * 7 + [2 * 16]
    assert np.allclose(merged.array(), w.astype(np.float16) + 0.5 * b @ a, atol=1e-5)


def test_the_command_imports_no_framework_and_may_be_run_again(tiny, adapter, tmp_path):
    script = (
        "import sys; from convert.merge_adapter import main; status = main(sys.argv[1:]);"
        "sys.exit(status or any(name in sys.modules for name in ('mindspore', 'torch', 'mindformers')))"
    )
    arguments = ["--model", "qwenvl", "--input_path", tiny, "--adapter", adapter, "--output_path", f"{tmp_path}/out/"]
    subprocess.run([sys.executable, "-c", script, *map(str, arguments)], check=True, cwd=ROOT)
    command = [sys.executable, str(ROOT / "convert/merge_adapter.py"), *map(str, arguments)]
    failed = subprocess.run([*command, "--dtype", "fp64"], capture_output=True, text=True, cwd=tmp_path)
    assert failed.returncode == 2 and "Traceback" not in failed.stderr
    assert subprocess.run(command, cwd=tmp_path).returncode == 0  # and again, over what stands there


@pytest.mark.parametrize("output", ["snapshots/0123/", "snapshots/0123/model.safetensors", "snapshots/", "blobs/"])
def test_a_hub_cache_is_not_replaced_by_what_is_merged_into_it(adapter, snapshot, merge, output):
    cache = snapshot.parents[1]
    before = {path: path.read_bytes() for path in cache.rglob("*") if path.is_file()}
    status, _, err = merge("--input_path", snapshot, "--adapter", adapter, "--output_path", f"{cache}/{output}")
    assert status == 2 and "is the input" in err
    assert before == {path: path.read_bytes() for path in cache.rglob("*") if path.is_file()}
