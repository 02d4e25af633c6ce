"""An index of shards: the checkpoint that its shards are, or an InputError."""

import json

import numpy as np
import torch
from mutations import mutate_bytes, mutate_value, pick, to_text
from safetensors.torch import save_file

from ms_impl.io.checkpoint import open_checkpoint

SHARDS = ("model-00001-of-00002", "model-00002-of-00002")


def make(rng, folder):
    ending = pick(rng, (".safetensors", ".safetensors", ".bin"))
    save = save_file if ending == ".safetensors" else torch.save
    placed = {}
    for number, shard in enumerate(SHARDS):
        tensors = {f"{number}.{name}": torch.full((2,), float(number)) for name in "ab"}
        if ending == ".safetensors":
            save_file(
                tensors, folder / (shard + ending), metadata=pick(rng, (None, {"format": "pt"}, {"format": "ms"}))
            )
        else:
            save(tensors, folder / (shard + ending))
        placed |= dict.fromkeys(tensors, shard + ending)
    content = {"metadata": {"total_size": 32}, "weight_map": placed}
    names = (SHARDS[0] + ending, SHARDS[1] + ending, "..", ".", "", "a/b", "/dev/zero", "x" * 400 + ending, ending)
    if rng.random() < 0.5:
        placed[pick(rng, (*placed, "new", "x" * 5000))] = pick(rng, names)
    data = to_text(rng, mutate_value(rng, content)) if rng.random() < 0.6 else json.dumps(content).encode()
    data = mutate_bytes(rng, data) if rng.random() < 0.2 else data
    name = "model.safetensors.index.json" if ending == ".safetensors" else "pytorch_model.bin.index.json"
    (folder / name).write_bytes(data)
    return folder


def run(folder):
    checkpoint = open_checkpoint(folder)
    assert checkpoint.tensors
    for name, tensor in checkpoint.tensors.items():
        assert np.array_equal(tensor.array(), [float(name[0])] * 2)


def test_shard_index(fuzz):
    fuzz("shard index", make, run, seconds=10, megabytes=500)
