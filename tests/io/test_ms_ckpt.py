"""Our .ckpt files load in MindSpore; MindSpore's are read; damaged ones are refused."""

import time
from pathlib import Path

import mindspore
import numpy as np
import pytest
from mindspore.common.np_dtype import bfloat16
from mindspore.train import serialization

from ms_impl.errors import InputError
from ms_impl.io import ms_ckpt
from ms_impl.io.dtypes import BF16, FP16, FP32

RNG = np.random.default_rng(0)
ARRAYS = {
    "transformer.h.0.attn.c_attn.weight": (RNG.standard_normal((48, 16)).astype(np.float32), FP32),
    "half": (RNG.standard_normal((5, 3, 2)).astype(np.float16), FP16),
    "brain": (RNG.integers(0x3F00, 0x4000, (1000, 30), dtype=np.uint16), BF16),
    "scalar": (np.array(2.5, np.float32), FP32),
}


def bits(parameter) -> np.ndarray:
    values = parameter.asnumpy()
    return values.view(np.uint16) if values.dtype == bfloat16 else values


@pytest.mark.parametrize("split_bytes", [ms_ckpt.SPLIT_BYTES, 1024])
def test_mindspore_loads_what_we_write(in_memory, tmp_path, split_bytes):
    path = tmp_path / "ours.ckpt"
    tensors = [in_memory(name, values, dtype) for name, (values, dtype) in ARRAYS.items()]
    counted = []
    with open(path, "wb") as file:
        ms_ckpt.write(file, tensors, counted.append, split_bytes)
    loaded = mindspore.load_checkpoint(str(path))
    assert list(loaded) == list(ARRAYS)
    for name, (values, dtype) in ARRAYS.items():
        assert str(loaded[name].dtype) == dtype.mindspore
        assert loaded[name].shape == values.shape
        assert np.array_equal(bits(loaded[name]), values)
    assert sum(counted) == sum(values.nbytes for values, _ in ARRAYS.values())
    pieces = [piece.nbytes for piece in ms_ckpt.read(path)["brain"].pieces]
    assert len(pieces) == -(-60_000 // split_bytes) and max(pieces) <= split_bytes


def save(path, monkeypatch, **options) -> None:
    """Save with MindSpore, its limit of a value lowered to 1 KiB (it counts in KiB)."""
    monkeypatch.setattr(serialization, "SLICE_SIZE", 1)
    parameters = []
    for name, (values, dtype) in ARRAYS.items():
        values = values.view(bfloat16) if dtype is BF16 else values
        parameters.append({"name": name, "data": mindspore.Tensor.from_numpy(values)})
    mindspore.save_checkpoint(parameters, str(path), **options)


@pytest.mark.parametrize("crc_check", [False, True])
def test_we_read_what_mindspore_writes(tmp_path, monkeypatch, crc_check):
    path = tmp_path / "theirs.ckpt"
    save(path, monkeypatch, crc_check=crc_check)
    tensors = ms_ckpt.read(path)
    assert tensors.keys() == ARRAYS.keys()
    assert len(tensors["brain"].pieces) > 10
    for name, (values, dtype) in ARRAYS.items():
        tensor = tensors[name]
        assert tensor.dtype is dtype and tensor.shape == values.shape
        assert np.array_equal(tensor.array(), values)
        assert np.array_equal(np.concatenate([block.copy() for block in tensor.blocks()]), values.reshape(-1))


def test_arrays_are_aligned_wherever_they_lie_in_the_file(tmp_path, monkeypatch):
    path = tmp_path / "theirs.ckpt"
    save(path, monkeypatch)
    tensors = ms_ckpt.read(path).values()
    assert any(tensor.pieces[0].offset % tensor.dtype.itemsize for tensor in tensors)
    assert all(tensor.array().flags.aligned for tensor in tensors)


def test_counters_beside_the_parameters_are_read_and_texts_are_refused(tmp_path, monkeypatch):
    save(tmp_path / "a.ckpt", monkeypatch, append_dict={"epoch_num": 3})
    assert ms_ckpt.read(tmp_path / "a.ckpt")["epoch_num"].array() == 3
    save(tmp_path / "b.ckpt", monkeypatch, append_dict={"note": "hello"})
    with pytest.raises(InputError, match="b.ckpt: 'note' is of type 'str'"):
        ms_ckpt.read(tmp_path / "b.ckpt")


def test_a_file_cut_anywhere_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "theirs.ckpt"
    save(path, monkeypatch)
    whole = path.read_bytes()
    path.chmod(0o600)
    for kept in (*range(60), *range(60, len(whole), 997), len(whole) - 1):
        path.write_bytes(whole[:kept])
        with pytest.raises(InputError, match="theirs.ckpt: .*(is empty|not a whole|instead of)"):
            ms_ckpt.read(path)


def test_another_file_under_the_name_is_refused(tmp_path):
    path = tmp_path / "x.ckpt"
    for content in (b"PK\x03\x04" + bytes(100), b"<!doctype html>", b"\xff" * 100, bytes(100), b"\x0a\x02\x18\x01"):
        path.write_bytes(content)
        with pytest.raises(InputError, match="not a whole MindSpore checkpoint"):
            ms_ckpt.read(path)


def test_a_tensor_that_stands_twice_is_refused(in_memory, tmp_path):
    path = tmp_path / "x.ckpt"
    tensors = [in_memory(name, np.zeros(3, np.float32), FP32) for name in ("a", "b", "a")]
    with open(path, "wb") as file:
        ms_ckpt.write(file, tensors, lambda nbytes: None)
    with pytest.raises(InputError, match="'a' stands in the file twice"):
        ms_ckpt.read(path)


def test_dimensions_of_thousands_of_digits_are_told_in_few_words():
    with pytest.raises(InputError, match="ckpt_huge_dims.ckpt: ") as refusal:
        ms_ckpt.read(Path(__file__).parent / "fuzzed/ckpt_huge_dims.ckpt")
    assert len(str(refusal.value)) < 400


def test_a_negative_dimension_is_refused(in_memory, tmp_path):
    path = tmp_path / "x.ckpt"
    with open(path, "wb") as file:
        ms_ckpt.write(file, [in_memory("a", np.zeros((1, 3), np.float32), FP32)], lambda nbytes: None)
    dims = b"\x08\x01\x08\x03"
    negative = b"\x08" + b"\xff" * 9 + b"\x01" + b"\x08\x03"  # -1 as protobuf writes it
    data = bytearray(path.read_bytes().replace(dims, negative))
    for at in (1, data.index(b"\x12") + 1):  # the lengths of value and tensor
        data[at] += len(negative) - len(dims)
    path.write_bytes(data)
    with pytest.raises(InputError, match="tensor 'a' has the shape .*, which no tensor can have"):
        ms_ckpt.read(path)


def test_a_tensor_of_very_many_pieces_takes_linear_time(in_memory, tmp_path):
    path = tmp_path / "x.ckpt"
    with open(path, "wb") as file:
        ms_ckpt.write(file, [in_memory("a", np.zeros(50_000, np.float32), FP32)], lambda nbytes: None, split_bytes=4)
    began = time.process_time()
    assert len(ms_ckpt.read(path)["a"].pieces) == 50_000
    assert time.process_time() - began < 10
