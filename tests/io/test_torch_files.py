"""Files of torch.save are read without torch, and none of their code runs."""

import os
import pickle
import re
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from ms_impl.errors import InputError
from ms_impl.io import dtypes, torch_files, torch_pickle

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


def test_parameters_and_tensors_with_attributes_are_read(tmp_path):
    plain, parameter = torch.randn(2, 3), torch.nn.Parameter(torch.randn(3))
    marked = torch.nn.Parameter(torch.randn(2, 2), requires_grad=False)
    marked.note, marked.sizes, marked.kind = "x", torch.Size([1, 2]), torch.float16
    noted = torch.randn(4)
    noted.tags, noted.raw, noted.place, noted.table = (
        {"a", "b"},
        b"\x00\xff",
        torch.device("cpu"),
        {(1, 2): None, 3: []},
    )
    state = {"plain": plain, "parameter": parameter, "marked": marked, "noted": noted, "ids": torch.nn.Parameter(
        torch.arange(3), requires_grad=False), "view": noted[1:],
        "unsigned": torch.arange(3).to(torch.uint16)}  # fmt: skip
    torch.save(state, tmp_path / "x.bin")
    torch.load(tmp_path / "x.bin", weights_only=True)
    tensors = torch_files.read(tmp_path / "x.bin")
    assert tensors.keys() == state.keys()
    for name, expected in state.items():
        assert np.array_equal(tensors[name].array(), numpy_of(expected.detach())), name


def test_a_file_without_checksums_is_read(tmp_path):
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(STATE, tmp_path / "x.bin")
    finally:
        torch.serialization.set_crc32_options(True)
    assert np.array_equal(torch_files.read(tmp_path / "x.bin")["base"].array(), BASE.numpy())


def test_no_pickle_sets_what_a_tensor_has_itself():
    """The attributes that Python code cannot set, or that are not the object's own once set."""
    found = set()
    for kind in (torch.Tensor, torch.nn.Parameter):
        for name in dir(kind):
            tensor = torch.zeros(2) if kind is torch.Tensor else torch.nn.Parameter(torch.zeros(2))
            try:
                setattr(tensor, name, 1)
            except (TypeError, AttributeError, RuntimeError, NotImplementedError):
                found.add(name)
            else:
                found |= set() if name in vars(tensor) else {name}
    assert found <= torch_pickle._OWN_ATTRIBUTES


def test_values_are_not_changed_by_an_attribute(tmp_path):
    tensor = torch.zeros(2)
    tensor.note = torch.ones(2)
    torch.save({"a": tensor}, tmp_path / "x.bin")
    content = zipfile.ZipFile(tmp_path / "x.bin").read("x/data.pkl")
    replace_pickle(tmp_path / "x.bin", content.replace(b"X\x04\0\0\0note", b"X\x04\0\0\0data"))
    assert torch.load(tmp_path / "x.bin", weights_only=True)["a"].tolist() == [1, 1]
    with pytest.raises(InputError, match="refused: its pickle sets the attribute data of a tensor"):
        torch_files.read(tmp_path / "x.bin")


FUZZED = Path(__file__).parent / "fuzzed"


@pytest.mark.parametrize("name, message", {
    "bin_changes_dtype_table": "sets the state of a function or type|no data.pkl or no version",
    "bin_encrypted": "encrypted|no version",
    "bin_method12": "compressed|no version", "bin_method8": "compressed|no version",
    "bin_key_repr": "has a tuple as a key", "bin_od_items": "",
}.items())  # fmt: skip
def test_files_that_were_taken_amiss_before(name, message):
    before = dict(vars(dtypes.FP16))
    try:
        assert torch_files.read(FUZZED / f"{name}.bin") == {}
    except InputError as error:
        assert message and re.search(message, str(error)) and len(str(error)) < 300
    else:
        assert not message
    assert vars(dtypes.FP16) == before


def test_a_key_of_a_million_levels_is_refused(saved):
    replace_pickle(saved, b"\x80\x02})" + b"\x85" * 1_000_000 + b"K\x01s.")
    with pytest.raises(InputError, match="has a tuple as a key"):
        torch_files.read(saved)


@pytest.mark.parametrize("content, message", [
    (b"\x80\x02)" + b"q\x00h\x00\x86" * 64 + b"q\x00}h\x00K\x01s.", "has a tuple as a key"),  # 2 ** 64 to be hashed
    (b"\x80\x02)r\xff\xff\xff\xff.", "holds a tuple"),  # a list of memos would have 4 billion entries
    (b"\x80\x02" + b"]" * 6_000_000 + b".", "takes more than 5,000,000 operations"),
    (b"\x80\x02}(" + b"".join(b"\x8a\x1e" + (k * ((1 << 61) - 1)).to_bytes(30, "little") + b"N" for k in range(50_000))
     + b"u.", "takes more than"),  # keys that collide
    (b"\x80\x02ctorch\nHalfStorage\n}X\x04\0\0\0nameX\x04\0\0\0bf16sb.", "sets the state of a function or type"),
    (b"\x80\x02ccollections\nOrderedDict\n)R}X\x05\0\0\0itemsK\x01sb.", None),
    (b"\x80\x02X\x03\0\0\0\xed\xa0\x80.", "holds a str"),
    (b"\x80\x02}X\x03\0\0\0\xed\xa0\x80Ns.", r"entry '\\ud800' is not a tensor"),
])  # fmt: skip
def test_a_pickle_is_bounded_and_reaches_nothing(saved, content, message):
    replace_pickle(saved, content)
    if message is None:
        assert torch_files.read(saved) == {}
        return
    with pytest.raises(InputError, match=message):
        torch_files.read(saved)


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
    b"ctorch\nload\n.",
])  # fmt: skip
def test_every_other_global_is_refused(saved, content):
    replace_pickle(saved, content)
    with pytest.raises(InputError, match="refused: its pickle asks for"):
        torch_files.read(saved)


@pytest.mark.parametrize("content", [
    b"", b"\x80\x02}", b"\x80\x02h\x07.", b"ctorch._utils\n_rebuild_tensor_v2\n(K\x01K\x02tR.",
    b"(U\x07storageU\x01xtQ.",
    b"u.", b"t.", b"}(K\x01u.", b"\x87.", b"X\xff\xff\xff\xff.", b"U\x01\xff.", b"0", b"R.", b"}K\x01NK\x02u.",
])  # fmt: skip
def test_a_damaged_pickle_is_refused(saved, content):
    replace_pickle(saved, content)
    with pytest.raises(InputError, match="pytorch_model.bin: (its data.pkl is damaged|refused: its pickle)"):
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


def repack(path, change) -> None:
    """The same entries in a new archive, as ``change`` of the list of names and contents has them."""
    with zipfile.ZipFile(path) as archive:
        entries = [(name, archive.read(name)) for name in archive.namelist()]
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in change(entries):
            archive.writestr(name, data)


@pytest.mark.parametrize("change, message", [
    (lambda e: [*e, ("other/x", b"")], "its entries lie in several places"),
    (lambda e: [("x", b""), *e], "its entries lie in several places"),
    (lambda e: [(name.partition("/")[2], data) for name, data in e], "not one that torch.save wrote"),
    (lambda e: [(f"r/{name}", data) for name, data in e], "not one that torch.save wrote"),
    (lambda e: [*e, ("pytorch_model/constants.pkl", b"")], "TorchScript"),
    (lambda e: [(n, b"99" if n.endswith("/version") else d) for n, d in e], "of version b'99'; known: 1 to 10"),
    (lambda e: [(n, d) for n, d in e if not n.endswith("/version")], "no data.pkl or no version"),
    (lambda e: [(n, b"big" if n.endswith("byteorder") else d) for n, d in e], "byte order b'big'"),
    (lambda e: [(n, d + bytes(4) if n.endswith("data/0") else d) for n, d in e], "has 52 bytes instead of 48"),
])  # fmt: skip
def test_an_archive_that_torch_lays_out_otherwise_is_refused(saved, change, message):
    repack(saved, change)
    with pytest.raises(InputError, match=message):
        torch_files.read(saved)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_an_entry_that_stands_twice_is_refused(saved):
    repack(saved, lambda entries: [*entries, entries[4]])
    with pytest.raises(InputError, match="an entry stands in it twice"):
        torch_files.read(saved)


def test_what_stands_before_the_archive_is_refused(saved):
    saved.write_bytes(b"PK\x03\x04" + saved.read_bytes())
    with pytest.raises(InputError, match="not a whole zip file|does not begin like that"):
        torch_files.read(saved)


def test_an_encrypted_entry_is_refused(saved):
    data = bytearray(saved.read_bytes())
    data[data.index(b"PK\x01\x02") + 8] |= 1
    saved.write_bytes(data)
    with pytest.raises(InputError, match="entry 'pytorch_model/data.pkl' is encrypted"):
        torch_files.read(saved)


@pytest.mark.parametrize("offset, value, message", [
    (38, 0x10, "kind of entry"),  # the attribute of a directory: torch reads nothing of it
    (31, 2, "not a whole zip file"), (43, 1, "is not where its directory says|sizes or kind"), (34, 1, "sizes or kind"),
    (24, 1, "sizes or kind|not a whole"),
])  # fmt: skip
def test_a_directory_of_the_archive_that_torch_refuses_is_refused(saved, offset, value, message):
    data = bytearray(saved.read_bytes())
    last = data.rindex(b"PK\x01\x02")
    data[last + offset] ^= value
    saved.write_bytes(data)
    with pytest.raises(InputError, match=message):
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
    ({"cut": "data/0"}, "entry 'data/0' has 4 bytes instead of 48"),
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
