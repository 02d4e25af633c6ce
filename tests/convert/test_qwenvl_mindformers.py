"""MindFormers 1.5's layout: its table against an independent reading of its rules, and the command on such a file."""

import json
import math
from pathlib import Path

import mindspore
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from convert.qwenvl_mindformers import LAYOUT, WEIGHTS
from ms_impl import families
from ms_impl.errors import InputError
from ms_impl.io.checkpoint import Checkpoint, open_checkpoint
from ms_impl.io.conversion import as_hugging_face, load_for_mindspore
from ms_impl.io.dtypes import FP16
from ms_impl.io.rules import HUGGING_FACE
from ms_impl.io.tensors import CheckpointTensor
from ms_impl.qwenvl.config import QwenVLConfig

ROOT = Path(__file__).parents[2]
QWENVL = families.get("qwenvl")
SOURCE = "mindformers-1.5"

RENAMED = {
    "transformer.wte.weight": "llm_model.transformer.wte.embedding_weight",
    "transformer.ln_f.weight": "llm_model.transformer.ln_f.weight",
    "lm_head.weight": "llm_model.lm_head.weight",
}
IN_A_LAYER = {
    "ln_1.weight": "attention_norm.weight",
    "ln_2.weight": "ffn_norm.weight",
    "attn.c_proj.weight": "attention.wo.weight",
    "mlp.w1.weight": "feed_forward.w1.weight",
    "mlp.w2.weight": "feed_forward.w3.weight",
    "mlp.c_proj.weight": "feed_forward.w2.weight",
}


def mindformers_1_5(state: dict[str, np.ndarray], vision_heads: int) -> dict[str, np.ndarray]:
    """A Hugging Face state dictionary as the old port had it, by rules on the names instead of a table."""
    old = {}
    for name, array in state.items():
        if name.startswith("transformer.visual."):
            old |= vision(name.removeprefix("transformer.visual."), array, vision_heads)
        elif name in RENAMED:
            old[RENAMED[name]] = array
        else:
            _, _, layer, rest = name.split(".", 3)
            old |= decoder_layer(f"llm_model.transformer.layers.{layer}", rest, array)
    return old


def decoder_layer(layer: str, name: str, array: np.ndarray) -> dict[str, np.ndarray]:
    if name in IN_A_LAYER:
        return {f"{layer}.{IN_A_LAYER[name]}": array}
    parameter = name.removeprefix("attn.c_attn.")
    third = len(array) // 3
    return {f"{layer}.attention.w{x}.{parameter}": array[i * third : (i + 1) * third] for i, x in enumerate("qkv")}


def vision(name: str, array: np.ndarray, heads: int) -> dict[str, np.ndarray]:
    path, _, parameter = f"vision_encoder.{name}".rpartition(".")
    if path.rpartition(".")[2].startswith("ln_"):
        return {f"{path}.{'gamma' if parameter == 'weight' else 'beta'}": array}
    if path.endswith("out_proj"):
        projection = path.replace("out_proj", "projection")
        return {f"{projection}.{parameter}": array.transpose() if array.ndim == 2 else array}
    if parameter.startswith("in_proj_"):  # the resampler: queries, keys and values of all heads after each other
        q, k, v = np.split(array, 3)
        parameter = parameter.removeprefix("in_proj_")
    elif path.endswith("in_proj"):  # the tower: query, key and value of one head after each other
        size = len(array) // (3 * heads)
        pieces = [array[i * size : (i + 1) * size] for i in range(3 * heads)]
        q, k, v = (np.concatenate(pieces[i::3]) for i in range(3))
        path = path.removesuffix(".in_proj")
    else:
        return {f"{path}.{parameter}": array}
    return {f"{path}.dense{i}.{parameter}": part for i, part in enumerate((q, k, v), start=1)}


@pytest.fixture
def config(tiny) -> QwenVLConfig:
    return QwenVLConfig.from_file(tiny)


@pytest.fixture
def halves(tiny) -> dict[str, np.ndarray]:
    """The tiny model's weights in fp16, saved over those in fp32."""
    state = {name: tensor.half() for name, tensor in load_file(tiny / "model.safetensors").items()}
    save_file(state, tiny / "model.safetensors", metadata={"format": "pt"})
    return {name: tensor.numpy() for name, tensor in state.items()}


@pytest.fixture
def old_file(tmp_path, config, halves) -> Path:
    """The tiny model as MindFormers 1.5 would have published it, written by MindSpore."""
    old = mindformers_1_5(halves, config.visual.heads)
    path = tmp_path / "qwenvl_base_fp16.ckpt"
    data = [{"name": name, "data": mindspore.Tensor(np.ascontiguousarray(array))} for name, array in old.items()]
    mindspore.save_checkpoint(data, str(path))
    return path


def content(path) -> dict[str, bytes]:
    return {name: tensor.array().tobytes() for name, tensor in open_checkpoint(path).tensors.items()}


def test_the_table_leads_to_what_the_old_rules_give(config, halves):
    expected = mindformers_1_5(halves, config.visual.heads)
    found = {}
    for entry in WEIGHTS.expand(config):
        arrays = [halves[spec.name] for spec in entry.specs[HUGGING_FACE]]
        for operation in entry.operations[LAYOUT]:
            arrays = operation.apply(arrays)
        found |= {spec.name: array for spec, array in zip(entry.specs[LAYOUT], arrays, strict=True)}
    assert found.keys() == expected.keys()
    assert [name for name in found if not np.array_equal(found[name], expected[name])] == []


@pytest.mark.parametrize("output", ["x.ckpt", "x.safetensors", "x/"])
def test_into_ours_bit_for_bit(tiny, old_file, convert_weight, tmp_path, output):
    arguments = ("--input_path", old_file, "--output_path", f"{tmp_path}/{output}", "--config", tiny)
    status, out, _ = convert_weight(*arguments, "--source", SOURCE)
    assert status == 0 and f"{old_file} (mindformers-1.5, fp16) → " in out and "61 tensors" in out
    assert content(tmp_path / output) == content(tiny)


def test_into_hugging_face_byte_for_byte(tiny, old_file, convert_weight, tmp_path):
    arguments = ("--input_path", old_file, "--output_path", f"{tmp_path}/hf/", "--config", tiny)
    assert convert_weight(*arguments, "--source", SOURCE, "--reverse")[0] == 0
    for name in ("config.json", "qwen.tiktoken", "model.safetensors"):
        assert (tmp_path / "hf" / name).read_bytes() == (tiny / name).read_bytes(), name


def test_into_another_element_type(tiny, old_file, convert_weight, tmp_path, halves):
    arguments = ("--input_path", old_file, "--output_path", tmp_path / "x.safetensors", "--config", tiny)
    assert convert_weight(*arguments, "--source", SOURCE, "--reverse", "--dtype", "bf16")[0] == 0
    expected = {name: torch.from_numpy(array).bfloat16() for name, array in halves.items()}
    found = load_file(tmp_path / "x.safetensors")
    assert found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in expected)


class UnreadTensor(CheckpointTensor):
    """A tensor that must not be read."""

    def __init__(self, name: str, shape: tuple[int, ...]):
        self.name, self.shape, self.dtype = name, shape, FP16

    def array(self) -> np.ndarray:
        raise AssertionError(f"{self.name} was read")


def test_full_size_leads_back_to_every_released_tensor():
    released = json.loads((ROOT / "tests/golden/qwenvl_9.6b_shapes.json").read_text())
    config = QwenVLConfig.from_file(ROOT / "configs/qwenvl/qwenvl_9.6b")
    shapes = WEIGHTS.shapes(config, LAYOUT)
    split = 2 * (config.num_hidden_layers + config.visual.layers + 1)  # packed weights and biases
    assert len(shapes) == len(released) + 2 * split
    assert sum(map(math.prod, shapes.values())) == 9_656_935_168
    tensors = {name: UnreadTensor(name, shape) for name, shape in shapes.items()}
    source = Checkpoint(Path("qwenvl_base_fp16.ckpt"), (), tensors, None)
    converted = as_hugging_face(source, QWENVL, config, SOURCE).tensors
    assert {name: list(tensor.shape) for name, tensor in converted.items()} == released
    assert len(converted) == 853


def test_every_fault_of_an_old_file_is_listed(tiny, old_file, convert_weight, tmp_path, config):
    tensors = mindspore.load_checkpoint(str(old_file))
    width = config.hidden_size
    del tensors["llm_model.transformer.layers.0.attention.wk.weight"]
    tensors["vision_encoder.ln_post.gamma"] = mindspore.Parameter(np.ones(3, np.float16))
    tensors["llm_model.transformer.layers.0.attention.w.weight"] = mindspore.Parameter(np.ones((2, 3), np.float16))
    mindspore.save_checkpoint([{"name": name, "data": data} for name, data in tensors.items()], str(old_file))
    arguments = ("--input_path", old_file, "--output_path", tmp_path / "x.ckpt", "--config", tiny, "--source", SOURCE)
    status, _, err = convert_weight(*arguments)
    assert status == 2
    assert err.splitlines()[1:] == [
        f"  missing: llm_model.transformer.layers.0.attention.wk.weight [{width}, {width}]",
        "  extra: llm_model.transformer.layers.0.attention.w.weight [2, 3]",
        f"  wrong shape: vision_encoder.ln_post.gamma is [3], expected [{width}]",
    ]
    assert not (tmp_path / "x.ckpt").exists()


@pytest.mark.parametrize("options", [(), ("--reverse",)])
def test_an_old_file_without_source_is_recognised(tiny, old_file, convert_weight, tmp_path, options):
    arguments = ("--input_path", old_file, "--output_path", tmp_path / "x.safetensors", *options)
    status, _, err = convert_weight(*arguments)
    assert status == 2
    assert err.startswith(f"error: {old_file}: has the tensor names of mindformers-1.5;")
    assert "convert/convert_weight.py --source mindformers-1.5" in err


def test_an_old_file_is_not_loaded_as_it_is(old_file, config):
    with pytest.raises(InputError, match="convert_weight.py --source mindformers-1.5"):
        load_for_mindspore(old_file, QWENVL, config)


def test_an_unknown_source_is_refused(tiny, convert_weight, tmp_path):
    arguments = ("--input_path", tiny, "--output_path", tmp_path / "x.ckpt", "--source", "mindformers")
    status, _, err = convert_weight(*arguments)
    assert status == 2 and "--source: family 'qwenvl' has no layout 'mindformers'; it has mindformers-1.5" in err


def test_another_layout_is_not_taken_for_the_old_one(tiny, convert_weight, tmp_path):
    arguments = ("--input_path", tiny, "--output_path", tmp_path / "x.ckpt", "--source", SOURCE)
    status, _, err = convert_weight(*arguments)
    assert status == 2 and "missing: llm_model.transformer.wte.embedding_weight" in err
    assert "extra: transformer.h.0." in err
