"""Directories and single files open alike; an index that does not agree with its shards is refused."""

import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from transformers import modeling_utils

from ms_impl.errors import InputError
from ms_impl.io.checkpoint import INDEX_NAME, open_checkpoint, read_index
from ms_impl.io.rules import HUGGING_FACE, MINDSPORE
from torch_ref.checkpoint import read_shard, shards

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
    assert checkpoint.layout == HUGGING_FACE
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
    ({"format": "pt"}, HUGGING_FACE), ({"format": "ms"}, MINDSPORE),
    ({"format": "tf"}, None), (None, None),
])  # fmt: skip
def test_the_metadata_tells_the_layout(tmp_path, metadata, layout):
    save_file({"a": torch.ones(1)}, tmp_path / "x.safetensors", metadata=metadata)
    assert open_checkpoint(tmp_path / "x.safetensors").layout is layout


def test_an_index_that_names_an_absent_shard_is_refused(sharded):
    (sharded / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(InputError, match=f"{INDEX_NAME}: names shards that are not found: model-00002-of-00002"):
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
    ('{"weight_map": {"a": 1}}', "places tensor 'a' in 1, which is not a file name"),
    ('{"weight_map": {"a": ".."}}', "places tensor 'a' in '..', which is not a .safetensors file"),
    ('{"weight_map": {"a": "x\\u0000.safetensors"}}', "which is not a file name"),
    ('{"weight_map": {"a": "' + "x" * 300 + '.safetensors"}}', "which is not a .safetensors file"),
    ('{"weight_map": {"a": "x.bin"}}', "places tensor 'a' in 'x.bin', which is not a .safetensors file"),
    ('{"weight_map": {"a": "a.safetensors", "a": "b.safetensors"}}', "the key 'a' stands twice"),
    ('{"weight_map": {"a": ' + "[" * 5000 + "]" * 5000 + "}}", "nested deeper than 64 levels"),
    ('{"n": ' + "9" * 5000 + "}", "holds a number of 5,000 digits"),
    ('{"weight_map": [1]}', "has no 'weight_map'"),
])  # fmt: skip
def test_a_wrong_index_is_refused(sharded, content, message):
    (sharded / INDEX_NAME).write_text(content)
    with pytest.raises(InputError, match=f"{INDEX_NAME}: .*{message}"):
        open_checkpoint(sharded)


def test_nothing_and_anything_else_is_refused(tmp_path):
    with pytest.raises(InputError, match="absent: no such file or directory"):
        open_checkpoint(tmp_path / "absent")
    with pytest.raises(
        InputError, match="holds no weights; expected one of model.safetensors, model.safetensors.index.json"
    ):
        open_checkpoint(tmp_path)
    (tmp_path / "weights.gguf").write_bytes(b"GGUF")
    with pytest.raises(InputError, match="unknown ending '.gguf'"):
        open_checkpoint(tmp_path / "weights.gguf")


def test_messages_of_an_index_that_names_very_many_shards_are_short(sharded):
    write_index(sharded, {f"t{n}": f"{n:0200d}.safetensors" for n in range(10_000)})
    with pytest.raises(InputError, match="and 9,992 more") as refusal:
        open_checkpoint(sharded)
    assert len(str(refusal.value)) < 2000


ORDER = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")


def put(directory, name: str, value: float) -> None:
    """Weights of one number under one of the names that are looked for."""
    state = {"a": torch.full((2,), value)}
    save = torch.save if "bin" in name else save_file
    if name.endswith(".json"):
        shard = "shard" + (".bin" if "bin" in name else ".safetensors")
        save(state, directory / shard)
        (directory / name).write_text(json.dumps({"metadata": {}, "weight_map": {"a": shard}}))
    else:
        save(state, directory / name)


@pytest.mark.parametrize("first", range(len(ORDER)))
def test_candidates_are_taken_in_the_order_of_transformers_and_told(tmp_path, caplog, first):
    for value, name in enumerate(ORDER[first:], start=first):
        put(tmp_path, name, value)
    checkpoint = open_checkpoint(tmp_path)
    assert checkpoint.tensors["a"].array().tolist() == [first] * 2
    told = f"read from {ORDER[first]}; not read: {', '.join(ORDER[first + 1 :])}"
    assert (told in caplog.text) == (first < len(ORDER) - 1)
    assert dict(read_shard(shards(tmp_path)[0]))["a"].tolist() == [first] * 2


def test_the_order_is_that_of_transformers(tmp_path):
    for name in ORDER:
        put(tmp_path, name, 0)
    for name in ORDER:
        files, _ = _get_checkpoint_files(tmp_path)
        taken = [name] if not name.endswith(".json") else set(read_index(tmp_path / name).values())
        assert {Path(file).name for file in files} == set(taken)
        (tmp_path / name).unlink()


def _get_checkpoint_files(directory):
    return modeling_utils._get_resolved_checkpoint_files(
        pretrained_model_name_or_path=str(directory), subfolder="", variant=None, gguf_file=None, from_tf=False,
        from_flax=False, use_safetensors=None, cache_dir=None, force_download=False, proxies=None,
        local_files_only=True, token=None, user_agent={}, revision="main", commit_hash=None, is_remote_code=False,
    )  # fmt: skip


def test_a_stale_index_whose_shards_are_gone_does_not_matter(tmp_path):
    put(tmp_path, "model.safetensors", 1)
    write_index(tmp_path, {"a": "model-00001-of-00002.safetensors"})
    assert open_checkpoint(tmp_path).tensors["a"].array().tolist() == [1, 1]


def test_a_shard_without_metadata_among_others_is_read(sharded):
    save_file({"c": torch.ones(4)}, sharded / "model-00002-of-00002.safetensors")
    checkpoint = open_checkpoint(sharded)
    assert checkpoint.layout == HUGGING_FACE and checkpoint.tensors.keys() == {"a", "b", "c"}


@pytest.mark.parametrize("name", ["x.safetensors", "x.bin", "x.ckpt"])
def test_pipes_and_circles_are_refused(tmp_path, name):
    os.mkfifo(tmp_path / name)
    with pytest.raises(InputError, match=f"{name}: not a file, but a pipe"):
        open_checkpoint(tmp_path / name)
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    with pytest.raises(InputError, match="circle: its links lead in a circle"):
        open_checkpoint(tmp_path / "circle")
    with pytest.raises(InputError, match="not a file name"):
        open_checkpoint("a\0b")
