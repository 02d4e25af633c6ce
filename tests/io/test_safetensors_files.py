"""Our .safetensors files are the library's byte for byte; theirs are read; damaged ones are refused."""

import json
import os
from pathlib import Path

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
    (-1, "cut short, or longer than its header says"),
    (40, "cut short inside its header"), (5, "not a safetensors file"),
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
    with pytest.raises(InputError, match="not a safetensors file, or damaged: invalid JSON in header"):
        safetensors_files.read(saved)


@pytest.mark.parametrize("change, message", [
    ({"shape": [3, 6]}, "damaged: invalid shape, data type, or offset for tensor"),
    ({"dtype": "F4"}, "or damaged: "),
    ({"data_offsets": [0, 60]}, "damaged: invalid offset for tensor `b.weight`"),
    ({"data_offsets": None}, "damaged: invalid JSON in header: invalid type: null"),
])  # fmt: skip
def test_a_wrong_header_is_refused(saved, change, message):
    header = header_of(saved)
    header["b.weight"] |= change
    with_header(saved, header)
    with pytest.raises(InputError, match=message):
        safetensors_files.read(saved)


def test_bytes_after_the_last_tensor_are_refused(saved):
    saved.write_bytes(saved.read_bytes() + b"\0")
    with pytest.raises(InputError, match="cut short, or longer than its header says"):
        safetensors_files.read(saved)


@pytest.mark.parametrize("metadata", [None, "absent"])
def test_metadata_may_be_null_or_absent(saved, metadata):
    header = header_of(saved)
    header["__metadata__"] = metadata
    if metadata == "absent":
        del header["__metadata__"]
    with_header(saved, header)
    tensors, found = safetensors_files.read(saved)
    assert found == {} and np.array_equal(tensors["b.weight"].array(), MIXED["b.weight"].numpy())


@pytest.mark.parametrize("metadata", [{"format": ["pt"]}, {"format": None}, {"format": 1}, [], "pt"])
def test_metadata_of_another_type_is_refused(saved, metadata):
    with_header(saved, header_of(saved) | {"__metadata__": metadata})
    with pytest.raises(InputError, match="damaged: invalid JSON in header: invalid type"):
        safetensors_files.read(saved)


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2, torch.complex64])
def test_a_type_that_is_not_supported_is_named(tmp_path, dtype):
    path = tmp_path / "x.safetensors"
    safetensors.torch.save_file({"a": torch.ones(3), "scaled": torch.ones(4).to(dtype)}, path)
    with pytest.raises(InputError, match="x.safetensors: tensor 'scaled' has element type (F8|C64).*not supported"):
        safetensors_files.read(path)


@pytest.mark.parametrize("name, message", [
    ("st_deep_header", "recursion limit|not a safetensors file"),
    ("st_infinite_offset", "invalid JSON in header|cut short"),
])  # fmt: skip
def test_files_that_ended_in_tracebacks_before(name, message):
    with pytest.raises(InputError, match=message) as refusal:
        safetensors_files.read(Path(__file__).parent / f"fuzzed/{name}.safetensors")
    assert len(str(refusal.value)) < 400


def test_a_pipe_is_refused(tmp_path):
    os.mkfifo(tmp_path / "x.safetensors")
    with pytest.raises(InputError, match="not a file, but a pipe"):
        safetensors_files.read(tmp_path / "x.safetensors")
