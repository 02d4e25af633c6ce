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

from safetensors import SafetensorError, safe_open

from ms_impl.errors import InputError, quote
from ms_impl.io import dtypes
from ms_impl.io.json_files import check_file
from ms_impl.io.streaming import read_ahead, write_bytes
from ms_impl.io.tensors import CheckpointTensor, Piece, StoredTensor, check_shape

_LENGTH_BYTES = 8
_DTYPES = {dtype.safetensors: dtype for dtype in dtypes.ALL}
_IN_HEADER = "not a safetensors file, or cut short inside its header"
_REASONS = {
    "header too small": _IN_HEADER, "header too large": _IN_HEADER, "invalid header length": _IN_HEADER,
    "file not fully covered": "cut short, or longer than its header says; copy or download it again",
}  # fmt: skip
_RANK = {dtype: rank for rank, dtype in enumerate(dtypes.ALL)}


def read(path: Path) -> tuple[dict[str, StoredTensor], dict[str, str]]:
    """The tensors of a file by name, and its metadata. The header is read by the safetensors library.

    Raises:
        InputError: the file is cut short, or is no safetensors file, or holds a type of elements that is not supported.
    """
    check_file(path)
    with open(path, "rb") as file:
        offset = _LENGTH_BYTES + int.from_bytes(file.read(_LENGTH_BYTES), "little")
    try:
        with safe_open(path, "numpy") as library:
            metadata = library.metadata() or {}
            slices = {name: library.get_slice(name) for name in library.offset_keys()}
            headers = {name: (one.get_dtype(), tuple(one.get_shape())) for name, one in slices.items()}
    except SafetensorError as error:
        raise InputError(f"{path}: {_reason(str(error))}") from error
    tensors = {}
    for name, (dtype, shape) in headers.items():
        if dtype not in _DTYPES:
            raise InputError(f"{path}: tensor {quote(name)} has element type {dtype}, which is not supported")
        nbytes = check_shape(f"{path}: tensor {quote(name)}", shape, _DTYPES[dtype])
        tensors[name] = StoredTensor(name, shape, _DTYPES[dtype], (Piece(path, offset, nbytes),))
        offset += nbytes  # the library takes no file with gaps
    return tensors, metadata


def canonical_order(tensors: Iterable[CheckpointTensor]) -> list[CheckpointTensor]:
    """In the order in which the safetensors library stores them: by type, the widest first, then by name."""
    return sorted(tensors, key=lambda tensor: (_RANK[tensor.dtype], tensor.name))


def write(
    file: BinaryIO, tensors: Sequence[CheckpointTensor], metadata: dict[str, str], progress: Callable[[int], Any]
) -> None:
    """Write tensors in the order given. ``progress`` is told the number of tensor bytes of each block written."""
    header = _header(tensors, metadata)
    file.write(len(header).to_bytes(_LENGTH_BYTES, "little") + header)
    for tensor in tensors:
        for block in read_ahead(tensor.blocks()):
            write_bytes(file, block.data.cast("B"))
            progress(block.nbytes)


def _reason(told: str) -> str:
    """What the library told, in words that say what to do."""
    told = told.removeprefix("Error while deserializing header: ")
    for part, reason in _REASONS.items():
        if part in told:
            return reason
    told = told if len(told) <= 200 else told[:199] + "…"
    return f"not a safetensors file, or damaged: {told}"


def _header(tensors: Sequence[CheckpointTensor], metadata: dict[str, str]) -> bytes:
    entries: dict[str, Any] = {"__metadata__": metadata}
    end = 0
    for tensor in tensors:
        begin, end = end, end + tensor.nbytes
        entries[tensor.name] = {
            "dtype": tensor.dtype.safetensors, "shape": list(tensor.shape), "data_offsets": [begin, end],
        }  # fmt: skip
    header = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    return header.ljust(math.ceil(len(header) / 8) * 8)
