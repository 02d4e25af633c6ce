"""Reading the zip files that ``torch.save`` writes, without torch and without running what they say.

Such a file holds ``NAME/data.pkl``, a pickle of the state dictionary, and ``NAME/data/KEY``, the raw storages, stored
uncompressed. The pickle is read as ``torch.load(weights_only=True)`` reads it: by an unpickler that knows a short list
of harmless names and refuses every other, so that no code in the file can run.
"""

from __future__ import annotations

import collections
import math
import pickle
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ms_impl.errors import InputError
from ms_impl.io import dtypes
from ms_impl.io.dtypes import DType
from ms_impl.io.tensors import Piece, Shape, StoredTensor, Tensor, map_piece

_DTYPES = {dtype.torch: dtype for dtype in dtypes.ALL if dtype.torch}
_LOCAL_HEADER_BYTES = 30  # of a zip entry, before its name; the lengths of name and extra field stand at 26 and 28


class _Storage(NamedTuple):
    dtype: DType
    key: str
    size: int


class _View(NamedTuple):
    """What the pickle says of one tensor. A tuple, because a pickle can set the attributes of most other objects."""

    storage: _Storage
    offset: int
    shape: Shape
    strides: Shape


@dataclass(frozen=True)
class StridedTensor(Tensor):
    """A tensor whose elements do not lie in row-major order; offset and strides count elements."""

    name: str
    shape: Shape
    dtype: DType
    storage: Piece
    offset: int
    strides: Shape

    def array(self) -> np.ndarray:
        flat = map_piece(self.storage, self.dtype)[self.offset :]
        strides = [stride * self.dtype.itemsize for stride in self.strides]
        return np.array(np.lib.stride_tricks.as_strided(flat, self.shape, strides, writeable=False), order="C")


def read(path: Path) -> dict[str, Tensor]:
    """The tensors of a file by name.

    Raises:
        InputError: the file is cut short, of the old format without zip, or asks for anything but plain tensors.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            root = _root(path, archive)
            views = _unpickle(path, archive.read(f"{root}/data.pkl"))
            keys = {view.storage.key for view in views.values()}
            storages = {key: _locate(path, archive, f"{root}/data/{key}") for key in keys}
    except (zipfile.BadZipFile, EOFError) as error:
        raise InputError(f"{path}: {_diagnosis(path)}") from error
    return {name: _tensor(path, name, view, storages[view.storage.key]) for name, view in views.items()}


def _diagnosis(path: Path) -> str:
    with open(path, "rb") as file:
        if file.read(1) == pickle.PROTO:
            return "written in torch's old format without zip; load it with torch ≥ 1.6 and torch.save it again"
    return "cut short or damaged: not a whole zip file; copy or download it again"


def _root(path: Path, archive: zipfile.ZipFile) -> str:
    """The folder inside the archive in which everything lies."""
    names = archive.namelist()
    root = next((name.removesuffix("/data.pkl") for name in names if name.endswith("/data.pkl")), None)
    if root is None:
        raise InputError(f"{path}: a zip file, but not one that torch.save wrote: it has no data.pkl")
    if f"{root}/byteorder" in names and archive.read(f"{root}/byteorder") != b"little":
        raise InputError(f"{path}: written on a big-endian machine, which is not supported")
    return root


def _unpickle(path: Path, data: bytes) -> dict[str, _View]:
    try:
        state = _Unpickler(path, data).load()
    except InputError:
        raise
    except Exception as error:  # a damaged pickle may ask for any nonsense
        raise InputError(f"{path}: its data.pkl is damaged ({error!r})") from error
    if not isinstance(state, dict):
        raise InputError(f"{path}: holds a {type(state).__name__}, not a dictionary of tensors")
    for name, value in state.items():
        if not isinstance(name, str) or not isinstance(value, _View):
            raise InputError(f"{path}: entry {name!r} is not a tensor; save the state dictionary alone")
    return state


class _Unpickler(pickle.Unpickler):
    """Builds dictionaries, lists, numbers, strings and ``_View``s, and nothing else."""

    def __init__(self, path: Path, data: bytes) -> None:
        super().__init__(BytesIO(data), encoding="utf-8")
        self._path = path

    def find_class(self, module: str, name: str) -> Callable[..., Any] | DType:
        if (module, name) == ("collections", "OrderedDict"):
            return collections.OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _rebuild_tensor
        if module == "torch" and name in _DTYPES:
            return _DTYPES[name]
        raise InputError(f"{self._path}: refused: its pickle asks for {module}.{name}, which plain weights never need")

    def persistent_load(self, identifier: Any) -> _Storage:
        kind, dtype, key, _device, size = identifier
        if kind != "storage" or not (isinstance(dtype, DType) and isinstance(key, str) and isinstance(size, int)):
            raise ValueError(f"unknown reference {identifier!r}")
        return _Storage(dtype, key, size)


def _rebuild_tensor(storage: Any, offset: Any, shape: Any, strides: Any, *_gradient_and_hooks: Any) -> _View:
    numbers = [offset, *shape, *strides]
    if not isinstance(storage, _Storage) or not all(isinstance(number, int) and number >= 0 for number in numbers):
        raise ValueError("a tensor without storage, shape or strides")
    if len(shape) != len(strides):
        raise ValueError(f"{len(shape)} dimensions but {len(strides)} strides")
    return _View(storage, offset, tuple(shape), tuple(strides))


def _locate(path: Path, archive: zipfile.ZipFile, member: str) -> Piece:
    """Where the bytes of a zip entry lie in the file."""
    try:
        info = archive.getinfo(member)
    except KeyError:
        raise InputError(f"{path}: damaged: has no entry '{member}'") from None
    if info.compress_type != zipfile.ZIP_STORED:
        raise InputError(f"{path}: entry '{member}' is compressed; torch.save does not do that: save the file again")
    with open(path, "rb") as file:
        file.seek(info.header_offset)
        header = file.read(_LOCAL_HEADER_BYTES)
    name_and_extra = int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")
    piece = Piece(path, info.header_offset + _LOCAL_HEADER_BYTES + name_and_extra, info.file_size)
    if piece.offset + piece.nbytes > path.stat().st_size:
        raise InputError(f"{path}: cut short inside entry '{member}'")
    return piece


def _tensor(path: Path, name: str, view: _View, storage: Piece) -> Tensor:
    dtype = view.storage.dtype
    last = view.offset + sum((size - 1) * stride for size, stride in zip(view.shape, view.strides))
    if 0 not in view.shape and (last + 1) * dtype.itemsize > storage.nbytes:
        raise InputError(f"{path}: damaged: tensor '{name}' {list(view.shape)} reaches beyond its storage")
    if view.strides != _row_major(view.shape):
        return StridedTensor(name, view.shape, dtype, storage, view.offset, view.strides)
    nbytes = math.prod(view.shape) * dtype.itemsize
    piece = Piece(path, storage.offset + view.offset * dtype.itemsize, nbytes)
    return StoredTensor(name, view.shape, dtype, (piece,))


def _row_major(shape: Shape) -> Shape:
    strides: list[int] = []
    step = 1
    for size in reversed(shape):
        strides.insert(0, step)
        step *= max(size, 1)
    return tuple(strides)
