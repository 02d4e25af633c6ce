"""PyTorch modules get every weight of a directory; a damaged one is refused, and no code in it runs."""

import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from ms_impl.errors import InputError
from torch_ref.checkpoint import load_checkpoint, read_shard, shards

STATE = {"0.weight": torch.randn(3, 2).half(), "0.bias": torch.randn(3).half(), "1.weight": torch.randn(4, 3).half()}
INDEX = {".bin": "pytorch_model.bin.index.json", ".safetensors": "model.safetensors.index.json"}
SAVE = {".bin": torch.save, ".safetensors": save_file}


def module() -> nn.Module:
    return nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 4, bias=False))


def write_shards(directory, suffix: str) -> None:
    """STATE in two shards with their index."""
    placed = {name: f"shard-{1 + name.startswith('1')}{suffix}" for name in STATE}
    for file in set(placed.values()):
        SAVE[suffix]({name: STATE[name] for name in placed if placed[name] == file}, directory / file)
    (directory / INDEX[suffix]).write_text(json.dumps({"weight_map": placed}))


@pytest.fixture(params=INDEX)
def sharded(tmp_path, request):
    write_shards(tmp_path, request.param)
    return tmp_path


def test_every_shard_is_loaded_and_cast(sharded):
    with torch.device("meta"):
        loaded = module()
    load_checkpoint(loaded, sharded)
    assert loaded.state_dict().keys() == STATE.keys()
    for name, tensor in loaded.state_dict().items():
        assert tensor.dtype == torch.float32 and torch.equal(tensor, STATE[name].float()), name


def test_a_bin_file_is_mapped_and_never_written_to(tmp_path):
    path = tmp_path / "pytorch_model.bin"
    torch.save(STATE, path)
    before = path.read_bytes()
    tensor = dict(read_shard(path))["0.weight"]
    assert str(path) in Path("/proc/self/maps").read_text()
    tensor.zero_()
    assert path.read_bytes() == before


def test_a_truncated_shard_is_refused(sharded):
    last = shards(sharded)[-1]
    last.write_bytes(last.read_bytes()[:-10])
    with pytest.raises(InputError, match=f"{last.name}: not a whole weight file"):
        load_checkpoint(module(), sharded)


def test_an_index_that_names_an_absent_shard_is_refused(sharded):
    last = shards(sharded)[-1]
    last.unlink()
    with pytest.raises(InputError, match=f"index.json: names shards that are not found: {last.name}"):
        load_checkpoint(module(), sharded)


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"weight_map": []}', '{"weight_map": {"a": 1}}'])
def test_what_is_no_index_is_refused(tmp_path, content):
    (tmp_path / INDEX[".bin"]).write_text(content)
    with pytest.raises(InputError, match="index.json: "):
        shards(tmp_path)


def test_a_directory_without_weights_is_refused(tmp_path):
    with pytest.raises(InputError, match="holds no weights"):
        load_checkpoint(module(), tmp_path)


class Command:
    """Unpickles by running a shell command."""

    def __init__(self, command: str):
        self._command = command

    def __reduce__(self):
        return os.system, (self._command,)


def test_code_in_a_pickle_is_refused_and_does_not_run(tmp_path):
    path, witness = tmp_path / "pytorch_model.bin", tmp_path / "witness"
    torch.save({"0.bias": Command(f"touch {witness}")}, path)
    with pytest.raises(InputError, match=r"(?s)pytorch_model.bin: not a whole weight file .*system"):
        load_checkpoint(module(), tmp_path)
    assert not witness.exists()
    torch.load(path, weights_only=False)  # the file is as evil as it should be
    assert witness.exists()


@pytest.mark.parametrize("content", [[torch.zeros(1)], {"state_dict": {"a": torch.zeros(1)}}])
def test_anything_but_a_dictionary_of_tensors_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "pytorch_model.bin")
    with pytest.raises(InputError, match="something else than a dictionary of tensors"):
        load_checkpoint(module(), tmp_path)


def test_every_fault_is_listed_and_the_module_stays(tmp_path):
    state = {"0.weight": torch.zeros(5, 2), "1.weight": torch.zeros(4, 3), "2.weight": torch.zeros(1)}
    save_file(state, tmp_path / "model.safetensors")
    target = module()
    before = target[1].weight.clone()
    with pytest.raises(InputError) as refusal:
        load_checkpoint(target, tmp_path)
    for fault in ("missing 0.bias [3]", "unexpected 2.weight [1]", "0.weight has shape [5, 2], expected [3, 2]"):
        assert fault in str(refusal.value)
    assert torch.equal(target[1].weight, before)
