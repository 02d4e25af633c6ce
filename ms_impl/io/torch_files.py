"""Reading the zip files that ``torch.save`` writes, without torch and without running what they say.

Such a file holds ``NAME/data.pkl``, a pickle of the state dictionary, and ``NAME/data/KEY``, the raw storages, stored
uncompressed. ``torch_archive`` finds the entries, ``torch_pickle`` reads the pickle.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ms_impl.errors import InputError, quote
from ms_impl.io import torch_pickle
from ms_impl.io.dtypes import DType
from ms_impl.io.tensors import CheckpointTensor, Piece, Shape, StoredTensor, check_shape, map_piece
from ms_impl.io.torch_archive import TorchArchive
from ms_impl.io.torch_pickle import View


@dataclass(frozen=True)
class StridedTensor(CheckpointTensor):
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


def read(path: Path) -> dict[str, CheckpointTensor]:
    """The tensors of a file by name.

    Raises:
        InputError: the file is cut short, of the old format without zip, not laid out as torch lays it out, or asks for
            anything but plain tensors.
    """
    archive = TorchArchive(path)
    views = torch_pickle.read_pickle(archive.read("data.pkl", torch_pickle.MAX_BYTES), str(path))
    storages = {}
    for storage in {view.storage for view in views.values()}:
        piece = archive.locate(f"data/{storage.key}")
        if piece.nbytes != storage.nbytes:
            raise InputError(
                f"{path}: damaged: entry {quote('data/' + storage.key)} has {piece.nbytes:,} bytes instead of "
                f"{storage.nbytes:,}"
            )
        storages[storage] = piece
    return {name: _tensor(path, name, view, storages[view.storage]) for name, view in views.items()}


def _tensor(path: Path, name: str, view: View, storage: Piece) -> CheckpointTensor:
    dtype = view.dtype
    check_shape(f"{path}: tensor {quote(name)}", view.shape, dtype)
    last = view.offset + sum((size - 1) * stride for size, stride in zip(view.shape, view.strides))
    if 0 not in view.shape and (last + 1) * dtype.itemsize > storage.nbytes:
        raise InputError(f"{path}: damaged: tensor {quote(name)} {quote(view.shape)} reaches beyond its storage")
    row_major = _row_major(view.shape)
    strides = tuple(own if size > 1 else row for size, own, row in zip(view.shape, view.strides, row_major))
    if 0 not in view.shape and strides != row_major:
        return StridedTensor(name, view.shape, dtype, storage, view.offset, strides)
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
