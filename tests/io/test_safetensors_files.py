"""Our .safetensors files are the library's byte for byte; theirs are read; damaged ones are refused."""

import json

import numpy as np
import pytest
import safetensors.torch
import torch

from ms_impl.errors import InputError
from ms_impl.io import safetensors_files
from ms_impl.io.dtypes import BF16, FP16, FP32

MIXED = {
    "b.weight": torch.randn(3, 5),
    "a.weight": torch.randn(4).to(torch.bfloat16),
    "c.half": torch.randn(2, 2, 2).to(torch.float16),
    "z.double": torch.randn(3).to(torch.float64),
    "ids": torch.arange(6),
    "mask": torch.tensor([True, False, True]),
    "scalar": torch.tensor(2.5),
    "empty": torch.zeros(0, 4),
    "名前": torch.randn(7),
}


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "library.safetensors"
    safetensors.torch.save_file(MIXED, path, metadata={"format": "pt"})
    return path


def write(path, tensors, metadata):
    counted = []
    with open(path, "wb") as file:
        safetensors_files.write(file, safetensors_files.canonical_order(tensors), metadata, counted.append)
    return sum(counted)


def test_read_gives_every_value(saved):
    tensors, metadata = safetensors_files.read(saved)
    assert metadata == {"format": "pt"}
    assert tensors.keys() == MIXED.keys()
    for name, expected in MIXED.items():
        bits = expected.view(torch.uint16) if expected.dtype == torch.bfloat16 else expected
        assert np.array_equal(tensors[name].array(), bits.numpy())
        assert tensors[name].shape == tuple(expected.shape)
        blocks = [block.copy() for block in tensors[name].blocks()]
        assert np.array_equal(np.concatenate(blocks) if blocks else [], bits.numpy().reshape(-1))


def test_write_equals_the_library_byte_for_byte(saved, tmp_path):
    tensors, metadata = safetensors_files.read(saved)
    total = write(tmp_path / "ours.safetensors", tensors.values(), metadata)
    assert (tmp_path / "ours.safetensors").read_bytes() == saved.read_bytes()
    assert total == sum(tensor.nbytes for tensor in tensors.values())


def test_the_library_reads_what_was_cast(in_memory, tmp_path):
    values = np.array([1, -2, 3], np.float32)
    tensors = [
        in_memory("fp32", values, FP32),
        in_memory("fp16", values.astype(np.float16), FP16),
        in_memory("bf16", (values.view(np.uint32) >> 16).astype(np.uint16), BF16),
    ]
    write(tmp_path / "x.safetensors", tensors, {"format": "ms"})
    for tensor in safetensors.torch.load_file(tmp_path / "x.safetensors").values():
        assert tensor.tolist() == [1, -2, 3]


def test_changing_an_array_never_changes_the_file(saved):
    before = saved.read_bytes()
    safetensors_files.read(saved)[0]["b.weight"].array()[:] = 0
    assert saved.read_bytes() == before


def header_of(path) -> dict:
    data = path.read_bytes()
    return json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])


def with_header(path, header) -> None:
    data = path.read_bytes()
    body = data[8 + int.from_bytes(data[:8], "little") :]
    raw = json.dumps(header).encode()
    path.write_bytes(len(raw).to_bytes(8, "little") + raw + body)


@pytest.mark.parametrize("kept, message", [
    (-1, "cut short: .* bytes of"), (40, "cut short inside its header"), (5, "not a safetensors file"),
])  # fmt: skip
def test_a_truncated_file_is_refused(saved, kept, message):
    saved.write_bytes(saved.read_bytes()[:kept])
    with pytest.raises(InputError, match=f"library.safetensors: .*{message}"):
        safetensors_files.read(saved)


def test_a_header_longer_than_the_file_is_refused(saved):
    saved.write_bytes((1 << 40).to_bytes(8, "little") + saved.read_bytes()[8:])
    with pytest.raises(InputError, match="cut short inside its header"):
        safetensors_files.read(saved)


def test_something_else_under_the_name_is_refused(saved):
    saved.write_bytes((16).to_bytes(8, "little") + b"<!doctype html><html>no such file</html>")
    with pytest.raises(InputError, match="header is not JSON"):
        safetensors_files.read(saved)


@pytest.mark.parametrize("change, message", [
    ({"shape": [3, 6]}, "'b.weight' .* does not fit its 60 bytes"),
    ({"dtype": "F4"}, "'b.weight' has element type F4"),
    ({"data_offsets": [0, 60]}, "overlap or leave gaps"),
    ({"data_offsets": None}, "damaged safetensors header"),
])  # fmt: skip
def test_a_wrong_header_is_refused(saved, change, message):
    header = header_of(saved)
    header["b.weight"] |= change
    with_header(saved, header)
    with pytest.raises(InputError, match=message):
        safetensors_files.read(saved)


def test_bytes_after_the_last_tensor_are_refused(saved):
    saved.write_bytes(saved.read_bytes() + b"\0")
    with pytest.raises(InputError, match="1 bytes after its last tensor"):
        safetensors_files.read(saved)
