"""Reading and writing one .safetensors file: 8 bytes of header length, a JSON header, then the raw tensors.

The format: https://github.com/huggingface/safetensors#format. What is written is what the safetensors library would
write for the same tensors, byte for byte.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from ms_impl.errors import InputError
from ms_impl.io import dtypes
from ms_impl.io.streaming import read_ahead, write_bytes
from ms_impl.io.tensors import Piece, StoredTensor, Tensor

_LENGTH_BYTES = 8
_MAX_HEADER_BYTES = 100_000_000  # the library's own limit
_DTYPES = {dtype.safetensors: dtype for dtype in dtypes.ALL}
_RANK = {dtype: rank for rank, dtype in enumerate(dtypes.ALL)}


def read(path: Path) -> tuple[dict[str, StoredTensor], dict[str, str]]:
    """The tensors of a file by name, and its metadata.

    Raises:
        InputError: the file is cut short, or is no safetensors file.
    """
    header, start = _read_header(path)
    metadata = header.pop("__metadata__", {})
    try:
        tensors = {name: _tensor(path, start, name, entry) for name, entry in header.items()}
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path}: damaged safetensors header ({error!r})") from error
    _check_coverage(path, start, tensors.values())
    return tensors, metadata


def canonical_order(tensors: Iterable[Tensor]) -> list[Tensor]:
    """In the order in which the safetensors library stores them: by type, the widest first, then by name."""
    return sorted(tensors, key=lambda tensor: (_RANK[tensor.dtype], tensor.name))


def write(file: BinaryIO, tensors: Sequence[Tensor], metadata: dict[str, str], progress: Callable[[int], Any]) -> None:
    """Write tensors in the order given. ``progress`` is told the number of tensor bytes of each block written."""
    header = _header(tensors, metadata)
    file.write(len(header).to_bytes(_LENGTH_BYTES, "little") + header)
    for tensor in tensors:
        for block in read_ahead(tensor.blocks()):
            write_bytes(file, block.data.cast("B"))
            progress(block.nbytes)


def _read_header(path: Path) -> tuple[dict[str, Any], int]:
    """The parsed header and the offset of the first tensor."""
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(_LENGTH_BYTES), "little")
        start = _LENGTH_BYTES + length
        if length > _MAX_HEADER_BYTES or start > path.stat().st_size:
            raise InputError(f"{path}: not a safetensors file, or cut short inside its header")
        raw = file.read(length)
    try:
        header = json.loads(raw)
    except ValueError as error:
        raise InputError(f"{path}: not a safetensors file: its header is not JSON ({error})") from error
    if not isinstance(header, dict) or not isinstance(header.get("__metadata__", {}), dict):
        raise InputError(f"{path}: not a safetensors file: its header is not a table")
    return header, start


def _tensor(path: Path, start: int, name: str, entry: dict[str, Any]) -> StoredTensor:
    if entry["dtype"] not in _DTYPES:
        raise InputError(f"{path}: tensor '{name}' has element type {entry['dtype']}, which is not supported")
    begin, end = (int(offset) for offset in entry["data_offsets"])
    shape = tuple(int(size) for size in entry["shape"])
    tensor = StoredTensor(name, shape, _DTYPES[entry["dtype"]], (Piece(path, start + begin, end - begin),))
    if min(shape, default=0) < 0 or tensor.nbytes != end - begin:
        raise InputError(f"{path}: tensor '{name}' {list(shape)} {tensor.dtype} does not fit its {end - begin} bytes")
    return tensor


def _check_coverage(path: Path, start: int, tensors: Iterable[StoredTensor]) -> None:
    """The tensors must fill the file without gap or overlap, to its very end."""
    end = start
    for piece in sorted((tensor.pieces[0] for tensor in tensors), key=lambda piece: (piece.offset, piece.nbytes)):
        if piece.offset != end:
            raise InputError(f"{path}: damaged: its tensors overlap or leave gaps at byte {end}")
        end += piece.nbytes
    size = path.stat().st_size
    if size < end:
        raise InputError(f"{path}: cut short: {size:,} bytes of {end:,}; copy or download it again")
    if size > end:
        raise InputError(f"{path}: damaged: {size - end:,} bytes after its last tensor")


def _header(tensors: Sequence[Tensor], metadata: dict[str, str]) -> bytes:
    entries: dict[str, Any] = {"__metadata__": metadata}
    end = 0
    for tensor in tensors:
        begin, end = end, end + tensor.nbytes
        entries[tensor.name] = {
            "dtype": tensor.dtype.safetensors, "shape": list(tensor.shape), "data_offsets": [begin, end],
        }  # fmt: skip
    header = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    return header.ljust(math.ceil(len(header) / 8) * 8)
