"""MindSpore's .ckpt: what we read is what protobuf reads of the same bytes; everything else is an InputError."""

import numpy as np
from mindspore.train.checkpoint_pb2 import Checkpoint
from mutations import mutate_bytes, pick

from ms_impl.io import dtypes, ms_ckpt
from ms_impl.io.tensors import ArrayTensor

NUMBERS = (0, 1, 3, 127, 128, 2**31, 2**63 - 1, 2**64 - 1, 2**70 - 1)


def varint(number: int) -> bytes:
    groups = []
    while number > 0x7F:
        groups.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*groups, number])


def field(number: int, content: bytes) -> bytes:
    return bytes([number << 3 | 2]) + varint(len(content)) + content


def value(rng: np.random.Generator) -> bytes:
    """One value, with dims that may not be its content's, written one by one or packed."""
    dims = [int(size) for size in rng.integers(0, 4, int(rng.integers(0, 4)))]
    content = bytes(int(np.prod(dims)) * 4)
    if rng.random() < 0.3:
        dims += [pick(rng, NUMBERS)] * pick(rng, (1, 1, 2, 40, 2000))
    numbers = b"".join(map(varint, dims))
    inner = field(1, numbers) if rng.random() < 0.3 else b"".join(b"\x08" + varint(size) for size in dims)
    kind = pick(rng, (b"Float32", b"Float32", b"Float32", b"Float16", b"str", b"\xff", b"F" * 20_000, b""))
    tag = pick(rng, (b"a", b"b", b"c" * 300, b"\xff", "名".encode(), b""))
    return field(1, field(1, tag) + field(2, inner + field(2, kind) + field(3, content)))


def make(rng, folder):
    path = folder / "x.ckpt"
    if rng.random() < 0.4:
        data = b"".join(value(rng) for _ in range(int(rng.integers(1, 4))))
    else:
        arrays = [rng.standard_normal(tuple(rng.integers(0, 4, int(rng.integers(0, 3))))) for _ in range(3)]
        tensors = [ArrayTensor(f"t{n}", np.asarray(array, np.float32), dtypes.FP32) for n, array in enumerate(arrays)]
        with open(path, "wb") as file:
            ms_ckpt.write(file, tensors, lambda nbytes: None, split_bytes=pick(rng, (4, 8, 1024)))
        data = path.read_bytes()
        data = mutate_bytes(rng, data) if rng.random() < 0.8 else data
    path.write_bytes(data)
    return path


def run(path):
    ours = ms_ckpt.read(path)
    message = Checkpoint()
    message.ParseFromString(path.read_bytes())
    theirs: dict = {}
    for one in message.value:
        theirs.setdefault(one.tag, []).append(one.tensor)
    assert ours.keys() == theirs.keys()
    for name, tensors in theirs.items():
        assert ours[name].dtype.mindspore == tensors[0].tensor_type
        assert ours[name].shape == tuple(tensors[0].dims) or (tuple(tensors[0].dims), ours[name].shape) == ((0,), ())
        assert ours[name].array().tobytes() == b"".join(tensor.tensor_content for tensor in tensors)


def test_ms_ckpt(fuzz):
    fuzz(".ckpt", make, run, seconds=10, megabytes=500)
