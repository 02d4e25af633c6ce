"""Directories and single files open alike; an index that does not agree with its shards is refused."""

import json

import pytest
import torch
from safetensors.torch import save_file

from ms_impl.errors import InputError
from ms_impl.io.checkpoint import INDEX_NAME, open_checkpoint
from ms_impl.io.rules import Layout

SHARDS = {
    "model-00001-of-00002.safetensors": {"a": torch.ones(2), "b": torch.ones(3)},
    "model-00002-of-00002.safetensors": {"c": torch.ones(4)},
}
WEIGHT_MAP = {name: file for file, tensors in SHARDS.items() for name in tensors}


@pytest.fixture
def sharded(tmp_path):
    for file, tensors in SHARDS.items():
        save_file(tensors, tmp_path / file, metadata={"format": "pt"})
    write_index(tmp_path, WEIGHT_MAP)
    return tmp_path


def write_index(directory, weight_map) -> None:
    (directory / INDEX_NAME).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def test_shards_open_as_one_checkpoint(sharded):
    checkpoint = open_checkpoint(sharded)
    assert {name: tensor.shape for name, tensor in checkpoint.tensors.items()} == {"a": (2,), "b": (3,), "c": (4,)}
    assert checkpoint.layout is Layout.HUGGING_FACE
    assert [file.name for file in checkpoint.files] == list(SHARDS)


def test_torch_shards_open_as_one_checkpoint(tmp_path):
    weight_map = {}
    for number, tensors in enumerate(SHARDS.values(), start=1):
        file = f"pytorch_model-{number:05d}-of-00002.bin"
        torch.save(tensors, tmp_path / file)
        weight_map |= dict.fromkeys(tensors, file)
    (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": weight_map}))
    checkpoint = open_checkpoint(tmp_path)
    assert {name: tensor.array().tolist() for name, tensor in checkpoint.tensors.items()} == {
        "a": [1] * 2, "b": [1] * 3, "c": [1] * 4,
    }  # fmt: skip


@pytest.mark.parametrize("metadata, layout", [
    ({"format": "pt"}, Layout.HUGGING_FACE), ({"format": "ms"}, Layout.MINDSPORE),
    ({"format": "tf"}, None), (None, None),
])  # fmt: skip
def test_the_metadata_tells_the_layout(tmp_path, metadata, layout):
    save_file({"a": torch.ones(1)}, tmp_path / "x.safetensors", metadata=metadata)
    assert open_checkpoint(tmp_path / "x.safetensors").layout is layout


def test_an_index_that_names_an_absent_shard_is_refused(sharded):
    (sharded / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(InputError, match=f"{INDEX_NAME}: names shards that are not there: model-00002-of-00002"):
        open_checkpoint(sharded)


def test_a_truncated_shard_is_refused(sharded):
    shard = sharded / "model-00002-of-00002.safetensors"
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(InputError, match="model-00002-of-00002.safetensors: cut short"):
        open_checkpoint(sharded)


def test_a_tensor_in_two_shards_is_refused(sharded):
    save_file({"b": torch.zeros(3), "c": torch.ones(4)}, sharded / "model-00002-of-00002.safetensors")
    with pytest.raises(InputError, match="00002.safetensors also holds 'b', which belongs in model-00001-of-00002"):
        open_checkpoint(sharded)


def test_a_tensor_in_the_wrong_shard_or_in_none_is_refused(sharded):
    first, second = SHARDS
    write_index(sharded, WEIGHT_MAP | {"a": second, "d": first})
    with pytest.raises(InputError, match="lacks 'd'") as refusal:
        open_checkpoint(sharded)
    assert "00001-of-00002.safetensors also holds 'a', which belongs in model-00002" in str(refusal.value)


def test_shards_of_both_layouts_are_refused(sharded):
    save_file({"c": torch.ones(4)}, sharded / "model-00002-of-00002.safetensors", metadata={"format": "ms"})
    with pytest.raises(InputError, match="different kinds: Hugging Face, MindSpore"):
        open_checkpoint(sharded)


@pytest.mark.parametrize("content, message", [
    ("{", "line 1: not JSON"), ("[]", "holds a list"), ("{}", "has no 'weight_map'"),
    ('{"weight_map": {"a": "../outside.safetensors"}}', "places tensor 'a' in '../outside.safetensors'"),
    ('{"weight_map": {"a": 1}}', "places tensor 'a' in 1"),
])  # fmt: skip
def test_a_wrong_index_is_refused(sharded, content, message):
    (sharded / INDEX_NAME).write_text(content)
    with pytest.raises(InputError, match=f"{INDEX_NAME}: {message}"):
        open_checkpoint(sharded)


def test_nothing_and_anything_else_is_refused(tmp_path):
    with pytest.raises(InputError, match="absent: no such file or directory"):
        open_checkpoint(tmp_path / "absent")
    with pytest.raises(InputError, match="holds no weights; expected one of model.safetensors.index.json"):
        open_checkpoint(tmp_path)
    (tmp_path / "weights.gguf").write_bytes(b"GGUF")
    with pytest.raises(InputError, match="unknown ending '.gguf'"):
        open_checkpoint(tmp_path / "weights.gguf")
