"""safetensors: what we read is what the library reads; what it refuses is refused, and what it takes is taken unless a
type of elements is not supported."""

import json

import safetensors.torch
import torch
from mutations import mutate_bytes, mutate_value, pick, to_text
from safetensors import SafetensorError, safe_open

from ms_impl.errors import InputError
from ms_impl.io import safetensors_files

TORCH = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64, "U8": torch.uint8,
         "BOOL": torch.bool, "F8_E4M3": torch.float8_e4m3fn}  # fmt: skip


def make(rng, folder):
    path = folder / "x.safetensors"
    tensors = {}
    for number in range(int(rng.integers(1, 5))):
        shape = tuple(int(size) for size in rng.integers(0, 4, int(rng.integers(0, 4))))
        dtype = pick(rng, list(TORCH.values())[: 7 if rng.random() < 0.1 else 6])
        tensors[pick(rng, ("a", "名", "x.y")) + str(number)] = torch.from_numpy(rng.integers(0, 2, shape)).to(dtype)
    metadata = pick(rng, (None, {}, {"format": "pt"}, {"format": "ms", "x": "y"}))
    safetensors.torch.save_file(tensors, path, metadata=metadata)
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    header, body = json.loads(data[8 : 8 + size]), data[8 + size :]
    kind = int(rng.integers(6))
    if kind in (1, 2):
        raw = to_text(rng, mutate_value(rng, header, 1))
        data = len(raw).to_bytes(8, "little") + raw + body
    elif kind == 3:
        data = mutate_bytes(rng, data, upto=8 + size)
    elif kind == 4:
        data = (
            data[: int(rng.integers(len(data) + 1))] if rng.random() < 0.5 else data + b"\0" * int(rng.integers(1, 9))
        )
    elif kind == 5:
        header["__metadata__"] = pick(
            rng, (None, {"format": ["pt"]}, {"format": None}, {"format": 1}, [], {"a": {}}, {})
        )
        raw = json.dumps(header).encode()
        data = len(raw).to_bytes(8, "little") + raw + body
    path.write_bytes(data)
    return path


def by_library(path):
    """Metadata, and type, shape and bytes of every tensor; None where the library refuses the file."""
    try:
        with safe_open(path, "pt") as file:
            return file.metadata(), {name: file.get_slice(name).get_dtype() for name in file.keys()}, {
                name: file.get_tensor(name) for name in file.keys()}  # fmt: skip
    except (SafetensorError, TypeError):  # the second for sizes beyond 2 ** 63
        return None


def run(path):
    theirs = by_library(path)
    try:
        ours, metadata = safetensors_files.read(path)
    except InputError as error:
        assert theirs is None or any("F8" in dtype or "C64" in dtype for dtype in theirs[1].values()), error
        raise
    assert theirs is not None, "the library refuses it"
    assert metadata == (theirs[0] or {})
    assert ours.keys() == theirs[2].keys()
    for name, tensor in theirs[2].items():
        assert ours[name].shape == tuple(tensor.shape) and ours[name].dtype.safetensors == theirs[1][name]
        assert ours[name].array().tobytes() == tensor.contiguous().view(torch.uint8).numpy().tobytes() \
            if tensor.ndim and tensor.numel() else True  # fmt: skip


def test_safetensors(fuzz):
    fuzz("safetensors", make, run, seconds=10, megabytes=500)
