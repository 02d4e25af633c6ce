"""Torch files: what we read has the names, shapes and bits that ``torch.load(weights_only=True)`` reads, which is the
judge; what torch refuses is refused; and whatever torch.save makes of plain tensors is read."""

import warnings
import zipfile
from collections import OrderedDict

import numpy as np
import torch
from mutations import mutate_bytes, pick

from ms_impl.errors import InputError
from ms_impl.io import torch_files

DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.int32, torch.int16,
          torch.int8, torch.uint8, torch.bool, torch.uint16)  # fmt: skip
OPERATIONS = (b"]", b"}", b")", b"N", b"\x88", b"0", b"2", b"h\x00", b"\x85", b"(", b"t", b"R", b"b", b"s", b"u",
              b"\x8a\xff" + b"\x7f" * 255, b"J\xff\xff\xff\xff")  # fmt: skip
NUMBERS = (0, 1, 2, 3, 4, 16, 255, 256, 65535)


def tensor_of(rng: np.random.Generator, seen: list) -> torch.Tensor:
    shape = tuple(int(size) for size in rng.integers(0, 5, int(rng.integers(0, 4))))
    tensor = torch.from_numpy(rng.integers(0, 2, shape)).to(pick(rng, DTYPES))
    kind = int(rng.integers(8))
    if kind == 0 and seen:
        tensor = pick(rng, seen)
    elif kind == 1 and tensor.ndim:
        tensor = tensor[:: int(rng.integers(1, 3))]
    elif kind == 2:
        tensor = tensor.mT if tensor.ndim > 1 else tensor.expand(3, *tensor.shape)
    elif kind == 3:
        tensor = torch.nn.Parameter(tensor, requires_grad=tensor.is_floating_point())
    if kind in (3, 4) and rng.random() < 0.5:
        tensor.note = pick(rng, ("text", 1, [1], {"a": (1, 2)}, torch.Size([1]), torch.float16, {"x"}, b"\xff", None))
    seen.append(tensor)
    return tensor


def make(rng, folder):
    seen: list = []
    state = pick(rng, (dict, OrderedDict))()
    for number in range(int(rng.integers(0, 6))):
        state[f"{number}.weight"] = tensor_of(rng, seen)
    if isinstance(state, OrderedDict) and rng.random() < 0.5:
        state._metadata = OrderedDict(version=1)
    path = folder / "x.bin"
    torch.save(state, path)
    kind = int(rng.integers(10))
    if 1 <= kind < 6:
        repack(rng, path, mutate_pickle)
    elif kind == 6:
        repack(rng, path, mutate_bytes)
    elif kind == 7:
        repack(rng, path, None)
    elif kind == 8:
        data = path.read_bytes()
        tail = data.index(b"PK\x01\x02")  # the directory of the archive
        path.write_bytes(data[:tail] + mutate_bytes(rng, data[tail:]))
    elif kind == 9:
        path.write_bytes(mutate_bytes(rng, path.read_bytes()))
    return path, kind == 0


def mutate_pickle(rng, data: bytes) -> bytes:
    """One number, one operation or a few bytes changed."""
    kind = int(rng.integers(4))
    places = [at for at, byte in enumerate(data[:-1]) if byte == ord("K")]
    if kind == 0 and places:
        at = pick(rng, places)
        number = pick(rng, NUMBERS)
        return data[:at] + b"M" + number.to_bytes(2, "little") + data[at + 2 :]
    if kind == 1:
        words = [b"FloatStorage", b"HalfStorage", b"LongStorage", b"ByteStorage", b"_rebuild_tensor_v2", b"OrderedDict",
                 b"_rebuild_parameter", b"_rebuild_tensor", b"float16", b"Tensor", b"UntypedStorage"]  # fmt: skip
        return data.replace(pick(rng, words), pick(rng, words), int(rng.integers(1, 3)))
    if kind == 2:
        at = int(rng.integers(2, len(data)))
        return data[:at] + pick(rng, OPERATIONS) + data[at:]
    return mutate_bytes(rng, data)


def repack(rng, path, change) -> None:
    """The same entries in a new archive: the pickle changed, or the archive itself."""
    with zipfile.ZipFile(path) as archive:
        entries = [(name, archive.read(name)) for name in archive.namelist()]
    if change is None:
        at = int(rng.integers(len(entries)))
        name, data = entries[at]
        entries[at:at + 1] = pick(rng, ([], [(name, data)] * 2, [(name, data + b"xxxx")], [(name, data[:-1])],
                                        [(f"r/{name}", data)], [(name, b"")], [("y", b""), (name, data)]))  # fmt: skip
    method = zipfile.ZIP_DEFLATED if change is None and rng.random() < 0.2 else zipfile.ZIP_STORED
    with warnings.catch_warnings(), zipfile.ZipFile(path, "w", method) as archive:
        warnings.simplefilter("ignore")
        for name, data in entries:
            archive.writestr(name, change(rng, data) if change and name.endswith("data.pkl") else data)


def run(case):
    path, untouched = case
    try:
        ours = torch_files.read(path)
    except InputError:
        assert not untouched, "what torch.save made is refused"
        raise
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = torch.load(path, map_location="cpu", weights_only=True)
    assert list(ours) == list(dict.keys(theirs))
    for name, tensor in dict.items(theirs):
        assert ours[name].shape == tuple(tensor.shape), name
        bits = tensor.detach().contiguous()
        bits = bits.view(torch.uint16) if bits.dtype == torch.bfloat16 else bits
        array = ours[name].array()
        assert array.dtype == bits.numpy().dtype and array.tobytes() == bits.numpy().tobytes(), name


def test_torch_bin(fuzz):
    fuzz("torch .bin", make, run, seconds=10, megabytes=1000)
