"""Loading checkpoints of every kind, and refusing what does not fit."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import mindspore as ms
import numpy as np
import pytest
import torch
from mindspore.nn.utils import no_init_parameters
from safetensors.torch import load_file, save_file

from convert.convert_weight import main as convert
from ms_impl import InputError, load
from ms_impl.cells.linear import Linear
from ms_impl.generate.config import GenerationConfig
from ms_impl.generate.static_graphs import static_graphs
from ms_impl.io.checkpoint import open_checkpoint
from ms_impl.io.dtypes import CastLoss
from ms_impl.kernels.operators import use_kernels
from ms_impl.qwenvl.family import FAMILY
from ms_impl.weights import set_parameter
from torch_ref.qwenvl.model import QwenVL as Reference

MATRIX = (4096, 8192)  # 64 MiB in bf16
IDS = np.array([[5, 300, 7, 44]], np.int32)


@pytest.fixture(scope="module", autouse=True)
def pynative():
    ms.set_context(mode=ms.PYNATIVE_MODE)


@pytest.fixture
def directory(mini, tmp_path):
    """A copy of the checkpoint to spoil."""
    return shutil.copytree(mini, tmp_path / "copy")


def logits(model) -> np.ndarray:
    return model(ms.Tensor(IDS)).asnumpy().astype(np.float32)


def wanted(directory) -> np.ndarray:
    with torch.no_grad():
        return Reference.from_pretrained(directory)(torch.from_numpy(IDS)).numpy()


def relative_error(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.sqrt(np.square(found - expected).mean() / np.square(expected).mean()))


@pytest.mark.parametrize("kind", ["huggingface", "x/", "x.ckpt", "x.safetensors"])
def test_every_kind_of_checkpoint(mini, tmp_path, kind):
    path, config = mini, None
    if kind != "huggingface":
        path, config = tmp_path / kind, None if kind == "x/" else mini
        arguments = ["--model", "qwenvl", "--input_path", str(mini), "--output_path", f"{tmp_path}/{kind}"]
        assert convert([*arguments, "--dtype", "fp32"]) == 0
    model, template = load(path, config=config)
    assert not model.training
    assert relative_error(logits(model), wanted(mini)) < 5e-5
    assert model.generation == GenerationConfig(**FAMILY.generation).changed(
        chat_format="chatml", top_p=0.9, max_new_tokens=12
    )
    assert template.tokenizer.eod_id == 1000


@pytest.mark.parametrize("stored", [torch.bfloat16, torch.float16])
def test_sixteen_bit_weights_become_fp32_on_the_cpu(directory, stored):
    file = directory / "model.safetensors"
    save_file({name: tensor.to(stored) for name, tensor in load_file(file).items()}, file, {"format": "pt"})
    model, _ = load(directory)
    assert {parameter.dtype for parameter in model.get_parameters()} == {ms.float32}
    assert relative_error(logits(model), wanted(directory)) < 5e-5


def test_fp16_computes_in_fp16(mini):
    model, template = load(mini, dtype="fp16")
    assert {parameter.dtype for parameter in model.get_parameters()} == {ms.float16}
    assert relative_error(logits(model), wanted(mini)) < 5e-3
    text, _ = model.chat(template, "Hi", system="", max_new_tokens=3, do_sample=False)
    assert text


def test_bf16_weights_compute_in_fp32_on_the_cpu(directory):
    """Equal to torch_ref, which computes in fp32 from the same rounded weights."""
    file = directory / "model.safetensors"
    save_file({name: tensor.bfloat16() for name, tensor in load_file(file).items()}, file, {"format": "pt"})
    model, template = load(directory, dtype="bf16")
    assert {parameter.dtype for parameter in model.get_parameters()} == {ms.bfloat16}
    assert relative_error(logits(model), wanted(directory)) < 5e-5
    query, greedy = [{"image": "a.png"}, {"text": "Hi"}], {"max_new_tokens": 8, "do_sample": False}
    answers = [each.chat(template, query, dataset_dir=directory, **greedy) for each in (model, load(directory)[0])]
    assert answers[0] == answers[1]


def test_the_files_of_the_checkpoint_are_never_written_to(directory):
    before = (directory / "model.safetensors").read_bytes()
    model, _ = load(directory)
    model.lm_head.weight.set_data(ms.ops.zeros_like(model.lm_head.weight))
    assert (directory / "model.safetensors").read_bytes() == before


def test_without_generation_config_the_defaults_hold(directory):
    (directory / "generation_config.json").unlink()
    assert load(directory)[0].generation == GenerationConfig(**FAMILY.generation)


def test_missing_weights_extra_ones_and_wrong_shapes_are_all_listed(directory):
    file = directory / "model.safetensors"
    weights = load_file(file)
    del weights["transformer.ln_f.weight"]
    weights["transformer.h.7.ln_1.weight"] = torch.ones(128)
    weights["lm_head.weight"] = torch.ones(5, 128)
    save_file(weights, file, {"format": "pt"})
    with pytest.raises(InputError) as error:
        load(directory)
    for name in ("transformer.ln_f.weight", "transformer.h.7.ln_1.weight", "lm_head.weight"):
        assert name in str(error.value)


def spoil_family(directory):
    (directory / "config.json").write_text(json.dumps({"model_type": "llama"}))


def spoil_vocabulary(directory):
    lines = (directory / "qwen.tiktoken").read_bytes().splitlines(keepends=True)
    (directory / "qwen.tiktoken").write_bytes(b"".join(lines[:-1]))


def spoil_generation(directory):
    (directory / "generation_config.json").write_text('{"top_p": 7}')


@pytest.mark.parametrize(
    "spoil, message",
    [
        (spoil_family, "config.json: no known model family.*llama"),
        (spoil_vocabulary, "wrong vocabulary file"),
        (lambda directory: (directory / "qwen.tiktoken").unlink(), "expected one vocabulary file"),
        (lambda directory: (directory / "config.json").unlink(), "config.json"),
        (lambda directory: (directory / "model.safetensors").unlink(), "holds no weights"),
        (spoil_generation, "generation_config.json.*top_p"),
    ],
)
def test_what_is_wrong_with_a_directory_is_told(directory, spoil, message):
    spoil(directory)
    with pytest.raises(InputError, match=message):
        load(directory)


def test_a_single_file_needs_a_config(mini):
    with pytest.raises(InputError, match="config"):
        load(mini / "model.safetensors")


def test_an_unknown_type_is_refused_with_those_known(mini):
    with pytest.raises(InputError, match="fp8.*known"):
        load(mini, dtype="fp8")


def test_values_that_fp16_cannot_hold_are_counted(directory, caplog):
    weights = load_file(directory / "model.safetensors")
    weights["lm_head.weight"][0, :3] = 1e6
    save_file(weights, directory / "model.safetensors", {"format": "pt"})
    load(directory, dtype="fp16")
    assert "3 values are too large" in caplog.text


def test_a_graph_reads_mapped_weights_of_bf16_where_they_are(tmp_path):
    """A tensor that is a view of another type would be copied, whole, before each run."""
    save_file({"weight": torch.ones(MATRIX, dtype=torch.bfloat16)}, tmp_path / "x.safetensors")
    (stored,) = open_checkpoint(tmp_path / "x.safetensors").tensors.values()
    with no_init_parameters():
        linear = Linear(MATRIX[1], MATRIX[0], bias=False, dtype=ms.bfloat16).set_train(False)
    set_parameter(linear.weight, stored, CastLoss())
    use_kernels(linear)
    if linear.kernel is None:
        pytest.skip("no C++ compiler here, or kernels are switched off")
    with static_graphs(linear):
        before = anonymous_bytes()
        found = linear(ms.Tensor(np.full((1, MATRIX[1]), 0.5, np.float32))).asnumpy()
        after = anonymous_bytes()
    assert (found == MATRIX[1] / 2).all()
    assert after - before < linear.weight.nbytes / 2


def anonymous_bytes() -> int:
    """Memory of this process that no file backs."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("RssAnon"))
