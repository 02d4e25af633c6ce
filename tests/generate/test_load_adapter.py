"""An adapter used without a merged checkpoint answers as one, bit for bit."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import mindspore as ms
import numpy as np
import peft
import pytest
import torch
from safetensors.torch import load_file, save_file

from convert.merge_adapter import main as merge_adapter
from ms_impl import InputError, load
from torch_ref.qwenvl.model import QwenVL as Reference

PROMPT = [{"image": "a.png"}, {"text": "What is this?"}]


@pytest.fixture(scope="module", params=["fp32", "fp16"])
def base(request, mini, tmp_path_factory) -> Path:
    """The small checkpoint, its weights in that type."""
    directory = tmp_path_factory.mktemp("base")
    for path in mini.iterdir():
        (directory / path.name).write_bytes(path.read_bytes())
    dtype = {"fp32": torch.float32, "fp16": torch.float16}[request.param]
    weights = {name: tensor.to(dtype) for name, tensor in load_file(mini / "model.safetensors").items()}
    save_file(weights, directory / "model.safetensors", {"format": "pt"})
    return directory


@pytest.fixture(scope="module")
def adapter(base, tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("adapter")
    torch.manual_seed(0)
    targets = r".*\.h\.\d+\..*(c_attn|w1)|.*attn_pool.kv_proj"
    config = peft.LoraConfig(r=4, lora_alpha=16, target_modules=targets, modules_to_save=["ln_f"])
    model = peft.get_peft_model(Reference.from_pretrained(base), config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += 0.1 * torch.randn_like(parameter)
    model.save_pretrained(directory)
    return directory


@pytest.fixture(scope="module")
def merged(base, adapter, tmp_path_factory) -> Path:
    output = tmp_path_factory.mktemp("merged") / "out"
    arguments = ["--input_path", str(base), "--adapter", str(adapter), "--output_path", f"{output}/"]
    assert merge_adapter(["--model", "qwenvl", *arguments]) == 0
    return output


@pytest.mark.parametrize("dtype", ["fp32", "fp16"])
def test_the_parameters_are_those_of_the_merged_checkpoint(base, adapter, merged, dtype):
    found, expected, plain = (
        {name: value.asnumpy() for name, value in load(path, dtype, adapter=own)[0].parameters_dict().items()}
        for path, own in ((base, adapter), (merged, None), (base, None))
    )
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name].dtype == value.dtype and np.array_equal(found[name], value), name
    changed = {name for name in plain if not np.array_equal(plain[name], expected[name])}
    layers = {f"transformer.{name}.weight" for name in ("h.0.attn.c_attn", "h.0.mlp.w1", "ln_f")}
    assert changed == {*layers, "transformer.visual.attn_pool.kv_proj.weight"}


MODES = [  # answers come from graphs in either
    pytest.param(ms.PYNATIVE_MODE, id="pynative"), pytest.param(ms.GRAPH_MODE, id="graph", marks=pytest.mark.slow),
]  # fmt: skip


@pytest.mark.parametrize("mode", MODES)
def test_the_answer_is_that_of_the_merged_checkpoint(base, adapter, merged, mode):
    before = ms.get_context("mode")
    ms.set_context(mode=mode)
    try:
        answers = []
        for path, own in ((base, adapter), (merged, None), (base, None)):
            model, template = load(path, adapter=own)
            answers.append(model.chat(template, PROMPT, None, dataset_dir=base, do_sample=False, max_new_tokens=8)[0])
    finally:
        ms.set_context(mode=before)
    assert answers[0] == answers[1] != answers[2]


def test_the_chat_format_is_the_one_that_the_adapter_was_trained_in(base, adapter, tmp_path):
    for path in adapter.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    assert load(base, adapter=tmp_path)[0].generation.chat_format == "chatml"
    (tmp_path / "generation_config.json").write_text('{"chat_format": "raw", "top_k": 3}')
    generation = load(base, adapter=tmp_path)[0].generation
    assert (generation.chat_format, generation.top_k) == ("raw", load(base)[0].generation.top_k)
    alone = shutil.copytree(base, tmp_path / "alone")
    (alone / "generation_config.json").unlink()
    assert load(alone, adapter=tmp_path)[0].generation.chat_format == "raw"


def test_an_adapter_that_does_not_fit_is_refused(base, adapter, tmp_path):
    config = json.loads((adapter / "adapter_config.json").read_text())
    (tmp_path / "adapter_config.json").write_text(json.dumps({**config, "r": 8}))
    (tmp_path / "adapter_model.safetensors").write_bytes((adapter / "adapter_model.safetensors").read_bytes())
    with pytest.raises(InputError, match="does not fit the model:\n  wrong shape: "):
        load(base, adapter=tmp_path)
    with pytest.raises(InputError, match="no such directory"):
        load(base, adapter=tmp_path / "none")
