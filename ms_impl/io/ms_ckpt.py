"""Reading and writing MindSpore's .ckpt files without MindSpore or protobuf, a block at a time.

The file is one protobuf message ``Checkpoint`` (mindspore/train/checkpoint.proto, checked against MindSpore 2.9)::

    Checkpoint { repeated Value  value = 1 }
    Value      { string tag = 1;  Tensor tensor = 2 }
    Tensor     { repeated int64 dims = 1;  string tensor_type = 2;  bytes tensor_content = 3 }

Contents over 512 MiB are split over several values of the same tag, each with the dims of the whole. A file may end in
a trailer of 17 bytes: ``crc_num`` and a CRC-32, which is ignored here as ``mindspore.load_checkpoint`` does.
"""

from __future__ import annotations

import itertools
import mmap
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from ms_impl.errors import InputError, quote
from ms_impl.io import dtypes
from ms_impl.io.json_files import check_file
from ms_impl.io.streaming import read_ahead, write_bytes
from ms_impl.io.tensors import CheckpointTensor, Piece, Shape, StoredTensor, check_shape

SPLIT_BYTES = 512 << 20

_DTYPES = {dtype.mindspore: dtype for dtype in dtypes.ALL}
_TRAILER_BYTES = 17
_TRAILER_MARK = b"crc_num"
_MAX_DIMENSIONS = 32
_MAX_TEXT = 10_000  # bytes of a name
_VARINT, _BYTES = 0, 2  # protobuf wire types


class _Value(NamedTuple):
    tag: str
    dims: Shape
    type_name: str
    content: Piece


def read(path: Path) -> dict[str, StoredTensor]:
    """The tensors of a file by name; only what stands between the contents is read.

    Raises:
        InputError: the file is cut short, encrypted or no MindSpore checkpoint, or holds what is not a tensor.
    """
    check_file(path)
    if path.stat().st_size == 0:
        raise InputError(f"{path}: is empty")
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        try:
            values = list(_values(path, data))
        except ValueError as error:
            raise InputError(
                f"{path}: not a whole MindSpore checkpoint: cut short, encrypted, or another format ({error})"
            ) from error
    return _join(path, values)


def write(
    file: BinaryIO, tensors: Iterable[CheckpointTensor], progress: Callable[[int], Any], split_bytes: int = SPLIT_BYTES
) -> None:
    """Write tensors in the order given. ``progress`` is told the number of tensor bytes of each block written.

    ``split_bytes`` is the largest content of one value and a multiple of every item size.
    """
    for tensor in tensors:
        room = 0  # bytes that the value begun last still takes
        left = tensor.nbytes
        if left == 0:
            file.write(_value_head(tensor, 0))
        for block in read_ahead(tensor.blocks()):
            data = memoryview(block).cast("B")
            while data:
                if room == 0:
                    room = min(left, split_bytes)
                    file.write(_value_head(tensor, room))
                part = data[:room]
                write_bytes(file, part)
                room, left, data = room - len(part), left - len(part), data[len(part) :]
            progress(block.nbytes)


def _value_head(tensor: CheckpointTensor, nbytes: int) -> bytes:
    """All of a value that precedes ``nbytes`` of content."""
    inner = b"".join(b"\x08" + _varint(size) for size in tensor.shape)
    inner += _field(2, tensor.dtype.mindspore.encode()) + b"\x1a" + _varint(nbytes)
    outer = _field(1, tensor.name.encode()) + b"\x12" + _varint(len(inner) + nbytes) + inner
    return b"\x0a" + _varint(len(outer) + nbytes) + outer


def _field(number: int, content: bytes) -> bytes:
    return bytes([number << 3 | _BYTES]) + _varint(len(content)) + content


def _varint(number: int) -> bytes:
    groups = []
    while number > 0x7F:
        groups.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*groups, number])


def _values(path: Path, data: mmap.mmap) -> Iterator[_Value]:
    end = len(data)
    if data[-_TRAILER_BYTES:].startswith(_TRAILER_MARK):
        end -= _TRAILER_BYTES
    for field, begin, stop in _fields(data, 0, end):
        if field != (1, _BYTES):
            raise ValueError(f"field {field[0]} is unknown")
        yield _value(path, data, begin, stop)


def _value(path: Path, data: mmap.mmap, begin: int, end: int) -> _Value:
    fields = {field: (start, stop) for field, start, stop in _fields(data, begin, end)}
    if fields.keys() != {(1, _BYTES), (2, _BYTES)}:
        raise ValueError("a value with other fields than tag and tensor")
    tag = _text(data, *fields[1, _BYTES])
    dims: list[int] = []
    type_name, content = "", Piece(path, end, 0)
    for field, start, stop in _fields(data, *fields[2, _BYTES]):
        if field in ((1, _VARINT), (1, _BYTES)):
            dims += itertools.islice(_integers(data, start, stop), _MAX_DIMENSIONS + 1)
            if len(dims) > _MAX_DIMENSIONS:
                raise ValueError(f"a tensor of more than {_MAX_DIMENSIONS} dimensions")
        elif field == (2, _BYTES):
            type_name = _text(data, start, stop)
        elif field == (3, _BYTES):
            content = Piece(path, start, stop - start)
        else:
            raise ValueError(f"field {field[0]} of a tensor is unknown")
    return _Value(tag, tuple(dims), type_name, content)


def _text(data: mmap.mmap, begin: int, end: int) -> str:
    if end - begin > _MAX_TEXT:
        raise ValueError(f"a name of {end - begin:,} bytes")
    return data[begin:end].decode()


def _fields(data: mmap.mmap, position: int, end: int) -> Iterator[tuple[tuple[int, int], int, int]]:
    """Number and wire type, begin and end of each field of the message that lies at [position, end)."""
    while position < end:
        key, position = _read_varint(data, position, end)
        begin = position
        size_or_value, position = _read_varint(data, position, end)
        if key & 7 == _BYTES:
            begin, position = position, position + size_or_value
        elif key & 7 != _VARINT:
            raise ValueError(f"unexpected byte {key:#x} at {begin - 1}")
        if position > end:
            raise ValueError(f"{position - end:,} bytes are missing")
        yield (key >> 3, key & 7), begin, position


def _integers(data: mmap.mmap, position: int, end: int) -> Iterator[int]:
    """One varint, or several packed one behind the other."""
    while position < end:
        number, position = _read_varint(data, position, end)
        yield number


def _read_varint(data: mmap.mmap, position: int, end: int) -> tuple[int, int]:
    number = 0
    for group in range(10):  # 10 × 7 bits hold the longest
        if position >= end:
            raise ValueError("it ends inside a number")
        byte = data[position]
        position += 1
        number |= (byte & 0x7F) << 7 * group
        if byte < 0x80:
            return number, position
    raise ValueError(f"no number at byte {position - 10}")


def _join(path: Path, values: Iterable[_Value]) -> dict[str, StoredTensor]:
    """One tensor per tag, of all the values that follow each other under it."""
    tensors: dict[str, StoredTensor] = {}
    for tag, group in itertools.groupby(values, key=lambda value: value.tag):
        parts = list(group)
        if len({(part.dims, part.type_name) for part in parts}) > 1 or tag in tensors:
            raise InputError(f"{path}: tensor {quote(tag)} stands in the file twice")
        tensors[tag] = _tensor(path, tag, parts)
    return tensors


def _tensor(path: Path, tag: str, parts: list[_Value]) -> StoredTensor:
    dims, type_name = parts[0].dims, parts[0].type_name
    if type_name not in _DTYPES:
        raise InputError(f"{path}: {quote(tag)} is of type {quote(type_name)}; only plain tensors are converted")
    dtype, pieces = _DTYPES[type_name], tuple(part.content for part in parts)
    found = sum(piece.nbytes for piece in pieces)
    shape = () if dims == (0,) and found else dims  # how older MindSpore wrote scalars
    nbytes = check_shape(f"{path}: tensor {quote(tag)}", shape, dtype)
    if found != nbytes or any(piece.nbytes % dtype.itemsize for piece in pieces):
        raise InputError(f"{path}: tensor {quote(tag)} {list(shape)} {dtype} has {found:,} bytes instead of {nbytes:,}")
    return StoredTensor(tag, shape, dtype, pieces)
