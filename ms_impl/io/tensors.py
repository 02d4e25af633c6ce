"""Tensors that are not read until they are asked for: as a whole, or block by block."""

from __future__ import annotations

import math
import mmap
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ms_impl.errors import InputError, quote
from ms_impl.io.dtypes import CastLoss, DType, cast
from ms_impl.io.streaming import read_ahead

Shape = tuple[int, ...]

BLOCK_BYTES = 1 << 20  # enough for full disk speed, little enough for the caches; a multiple of every item size


_MAX_DIMENSIONS = 32  # of a numpy array
_LINE = 64  # bytes of a cache's line
_HUGE = 1 << 21  # bytes of a huge page
_MAX_BYTES = (1 << 63) - 1


def check_shape(where: str, shape: Shape, dtype: DType) -> int:
    """Bytes of a tensor. Raises InputError, beginning with ``where``, for a shape that no array can have."""
    if len(shape) > _MAX_DIMENSIONS:
        raise InputError(f"{where} has {len(shape):,} dimensions; {_MAX_DIMENSIONS} are supported")
    nbytes = dtype.itemsize
    for size in shape:
        nbytes *= max(size, 1)
        if size < 0 or nbytes > _MAX_BYTES:
            raise InputError(f"{where} has the shape {quote(list(shape))}, which no tensor can have")
    return 0 if 0 in shape else nbytes


class CheckpointTensor(ABC):
    """A named tensor of known shape and type whose values are read on demand."""

    name: str
    shape: Shape
    dtype: DType

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        return self.size * self.dtype.itemsize

    @abstractmethod
    def array(self) -> np.ndarray:
        """The whole tensor, ``shape`` elements of ``dtype.carrier``; private memory, or pages of the file mapped
        copy-on-write, so that changing it never changes the file."""

    def blocks(self) -> Iterator[np.ndarray]:
        """The elements in row-major order, in flat arrays of at most ``BLOCK_BYTES``, each valid for itself."""
        flat = np.ascontiguousarray(self.array()).reshape(-1)
        step = BLOCK_BYTES // self.dtype.itemsize
        for start in range(0, flat.size, step):
            yield flat[start : start + step]


@dataclass(frozen=True)
class ArrayTensor(CheckpointTensor):
    """A tensor that lies in memory; ``values`` are of ``dtype.carrier``."""

    name: str
    values: np.ndarray
    dtype: DType

    @property
    def shape(self) -> Shape:  # type: ignore[override]  # of what it wraps
        return self.values.shape

    def array(self) -> np.ndarray:
        return self.values


@dataclass(frozen=True)
class Piece:
    """Bytes ``offset`` to ``offset + nbytes`` of a file."""

    path: Path
    offset: int
    nbytes: int


@dataclass(frozen=True)
class StoredTensor(CheckpointTensor):
    """A tensor that lies in a file in row-major order, in one piece or several."""

    name: str
    shape: Shape
    dtype: DType
    pieces: tuple[Piece, ...]

    def array(self) -> np.ndarray:
        parts = [map_piece(piece, self.dtype) for piece in self.pieces]
        flat = parts[0] if len(parts) == 1 else np.concatenate(parts)
        return np.require(flat, requirements="A").reshape(self.shape)

    def blocks(self) -> Iterator[np.ndarray]:
        for piece in self.pieces:
            with open(piece.path, "rb") as file:
                file.seek(piece.offset)
                for start in range(0, piece.nbytes, BLOCK_BYTES):
                    block = np.empty(min(BLOCK_BYTES, piece.nbytes - start), np.uint8)
                    if file.readinto(block) != len(block):
                        raise InputError(f"{piece.path}: became shorter while it was read")
                    yield block.view(self.dtype.carrier)


def map_piece(piece: Piece, dtype: DType) -> np.ndarray:
    """A piece of a file as a flat array, mapped copy-on-write; in huge pages where the file system has them.

    What is mapped begins and ends with one, or not all of the piece would lie in them.
    """
    count, begin = piece.nbytes // dtype.itemsize, piece.offset // _HUGE * _HUGE
    if count == 0:  # nothing cannot be mapped
        return np.empty(0, dtype.carrier)
    with open(piece.path, "rb") as file:
        end = min(-(-(piece.offset + piece.nbytes) // _HUGE) * _HUGE, os.fstat(file.fileno()).st_size)
        mapped = mmap.mmap(file.fileno(), end - begin, access=mmap.ACCESS_COPY, offset=begin)
    if hasattr(mmap, "MADV_HUGEPAGE"):  # Linux; a kernel without them says so
        with suppress(OSError):
            mapped.madvise(mmap.MADV_HUGEPAGE)
    return np.frombuffer(mapped, dtype.carrier, count, piece.offset - begin)


def aligned(count: int, dtype: DType) -> np.ndarray:
    """A flat array, its values undefined, that begins with a line of the processor's cache.

    Kernels load rows of weights line by line; of one that begins elsewhere each load takes two.
    """
    room = np.empty(count * dtype.itemsize + _LINE, np.uint8)
    start = -room.ctypes.data % _LINE
    return room[start : start + count * dtype.itemsize].view(dtype.carrier)


@dataclass(frozen=True)
class CastTensor(CheckpointTensor):
    """Another tensor in another floating type; what is lost is added to ``loss`` as the values are read."""

    source: CheckpointTensor
    dtype: DType
    loss: CastLoss

    @property
    def name(self) -> str:  # type: ignore[override]
        return self.source.name

    @property
    def shape(self) -> Shape:  # type: ignore[override]
        return self.source.shape

    def array(self) -> np.ndarray:
        values, start = aligned(self.size, self.dtype), 0
        several = self.source.nbytes > BLOCK_BYTES
        for block in read_ahead(self.blocks()) if several else self.blocks():
            values[start : start + block.size] = block
            start += block.size
        return values.reshape(self.shape)

    def blocks(self) -> Iterator[np.ndarray]:
        return map(self._cast, self.source.blocks())

    def _cast(self, values: np.ndarray) -> np.ndarray:
        converted = cast(values, self.source.dtype, self.dtype)
        self.loss.add(values, self.source.dtype, converted, self.dtype)
        return converted
