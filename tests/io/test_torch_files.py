"""Files of torch.save are read without torch, and none of their code runs."""

import os
import pickle
import zipfile

import numpy as np
import pytest
import torch

from ms_impl.errors import InputError
from ms_impl.io import torch_files

BASE = torch.randn(6, 8)
STATE = {
    "fp32": torch.randn(3, 4),
    "bf16": torch.randn(5, 2).to(torch.bfloat16),
    "fp16": torch.randn(2, 3, 4).to(torch.float16),
    "ids": torch.arange(5),
    "mask": torch.tensor([True, False]),
    "scalar": torch.tensor(1.5),
    "empty": torch.zeros(0, 3),
    "base": BASE,
    "tail of base": BASE[2:],
    "transposed": BASE.T,
    "every second column": BASE[1:, ::2],
    "expanded": torch.tensor([1.0, 2.0]).expand(3, 2),
}


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "pytorch_model.bin"
    torch.save(STATE, path)
    return path


def numpy_of(tensor: torch.Tensor) -> np.ndarray:
    tensor = tensor.contiguous()
    return (tensor.view(torch.uint16) if tensor.dtype == torch.bfloat16 else tensor).numpy()


def test_read_gives_every_value(saved):
    tensors = torch_files.read(saved)
    assert tensors.keys() == STATE.keys()
    for name, expected in STATE.items():
        tensor = tensors[name]
        assert tensor.shape == tuple(expected.shape)
        assert np.array_equal(tensor.array(), numpy_of(expected)), name
        blocks = [block.copy() for block in tensor.blocks()]
        assert np.array_equal(np.concatenate(blocks) if blocks else [], numpy_of(expected).reshape(-1)), name


def test_the_state_of_a_module_is_read(tmp_path):
    module = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.LayerNorm(2))
    torch.save(module.state_dict(), tmp_path / "m.bin")  # an OrderedDict with attributes
    tensors = torch_files.read(tmp_path / "m.bin")
    assert {name: tensor.array().tolist() for name, tensor in tensors.items()} == {
        name: tensor.tolist() for name, tensor in module.state_dict().items()
    }


class Command:
    """Unpickles by running a shell command."""

    def __init__(self, command: str):
        self._command = command

    def __reduce__(self):
        return os.system, (self._command,)


@pytest.mark.parametrize("wrap", [lambda evil: {"weight": evil}, lambda evil: evil, lambda evil: {evil: "weight"}])
def test_code_in_a_pickle_is_refused_and_does_not_run(tmp_path, wrap):
    path, witness = tmp_path / "evil.bin", tmp_path / "witness"
    torch.save(wrap(Command(f"touch {witness}")), path)
    with pytest.raises(InputError, match=r"evil.bin: refused: its pickle asks for (posix|os)\.system"):
        torch_files.read(path)
    assert not witness.exists()
    with zipfile.ZipFile(path) as archive:  # the file is as evil as it should be
        pickle.loads(archive.read("evil/data.pkl"))
    assert witness.exists()


def replace_pickle(path, content: bytes) -> None:
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in entries.items():
            archive.writestr(name, content if name.endswith("data.pkl") else data)


@pytest.mark.parametrize("content", [
    b"cbuiltins\neval\n(S'1'\ntR.", b"cbuiltins\ngetattr\n.", b"ctorch._utils\n_rebuild_device_tensor_from_numpy\n.",
    b"ctorch\nload\n.", b"\x80\x04\x8c\x02os\x8c\x06system\x93.",
])  # fmt: skip
def test_every_other_global_is_refused(saved, content):
    replace_pickle(saved, content)
    with pytest.raises(InputError, match="refused: its pickle asks for"):
        torch_files.read(saved)


@pytest.mark.parametrize("content", [
    b"", b"\x80\x02}", b"ctorch\nFloatStorage\n(tR.", b"ctorch._utils\n_rebuild_tensor_v2\n(I1\nI2\ntR.",
    b"(S'storage'\nS'x'\nS'0'\nS'cpu'\nI1\ntQ.", b"\x80\x02K\x01K\x02b.",
])  # fmt: skip
def test_a_damaged_pickle_is_refused(saved, content):
    replace_pickle(saved, content)
    with pytest.raises(InputError, match="pytorch_model.bin: its data.pkl is damaged"):
        torch_files.read(saved)


@pytest.mark.parametrize("content, message", [
    ({"state_dict": {"a": torch.zeros(1)}}, "entry 'state_dict' is not a tensor"),
    ([torch.zeros(1)], "holds a list"),
])  # fmt: skip
def test_anything_but_a_dictionary_of_tensors_is_refused(tmp_path, content, message):
    torch.save(content, tmp_path / "x.bin")
    with pytest.raises(InputError, match=message):
        torch_files.read(tmp_path / "x.bin")


def test_the_format_without_zip_is_refused(tmp_path):
    torch.save(STATE, tmp_path / "old.bin", _use_new_zipfile_serialization=False)
    with pytest.raises(InputError, match="old format without zip"):
        torch_files.read(tmp_path / "old.bin")


@pytest.mark.parametrize("kept", [0, 1, 100, 1000, -1])
def test_a_truncated_file_is_refused(saved, kept):
    saved.write_bytes(saved.read_bytes()[:kept])
    with pytest.raises(InputError, match="pytorch_model.bin: cut short or damaged"):
        torch_files.read(saved)


def rewrite(path, skip="", compression=zipfile.ZIP_STORED, cut="") -> None:
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in entries.items():
            if not (skip and name.endswith(skip)):
                archive.writestr(name, data[:4] if cut and name.endswith(cut) else data)


@pytest.mark.parametrize("change, message", [
    ({"skip": "data.pkl"}, "not one that torch.save wrote"),
    ({"skip": "data/0"}, "has no entry 'pytorch_model/data/0'"),
    ({"cut": "data/0"}, "tensor 'fp32' .* reaches beyond its storage"),
    ({"compression": zipfile.ZIP_DEFLATED}, "is compressed"),
])  # fmt: skip
def test_a_changed_archive_is_refused(saved, change, message):
    rewrite(saved, **change)
    with pytest.raises(InputError, match=message):
        torch_files.read(saved)


def test_a_rewritten_archive_without_torchs_alignment_is_read(saved):
    rewrite(saved)
    tensors = torch_files.read(saved)
    assert all(np.array_equal(tensors[name].array(), numpy_of(expected)) for name, expected in STATE.items())
    assert all(tensor.array().flags.aligned for tensor in tensors.values())
