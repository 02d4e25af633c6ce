"""The element types of checkpoints, under every name they go by, and the casts between the floating ones."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from ms_impl.errors import InputError, quote


@dataclass(frozen=True)
class DType:
    """One element type.

    ``carrier`` is the little-endian numpy type that holds its bits. numpy knows no bfloat16: it travels as uint16 bit
    patterns.
    """

    name: str
    safetensors: str
    mindspore: str
    torch: str | None  # the storage class in a torch file
    carrier: np.dtype

    @property
    def itemsize(self) -> int:
        return self.carrier.itemsize

    def __str__(self) -> str:
        return self.name


FP32 = DType("fp32", "F32", "Float32", "FloatStorage", np.dtype("<f4"))
FP16 = DType("fp16", "F16", "Float16", "HalfStorage", np.dtype("<f2"))
BF16 = DType("bf16", "BF16", "BFloat16", "BFloat16Storage", np.dtype("<u2"))

FLOATS = {dtype.name: dtype for dtype in (FP16, BF16, FP32)}  # the ones that weights may have
# As MindFormers' YAMLs, config.json and people write them, too.
FLOAT_SPELLINGS = {**FLOATS, "float16": FP16, "bfloat16": BF16, "float32": FP32}

# In the order in which the safetensors library stores them.
ALL = (
    DType("uint64", "U64", "UInt64", None, np.dtype("<u8")),
    DType("int64", "I64", "Int64", "LongStorage", np.dtype("<i8")),
    DType("fp64", "F64", "Float64", "DoubleStorage", np.dtype("<f8")),
    FP32,
    DType("uint32", "U32", "UInt32", None, np.dtype("<u4")),
    DType("int32", "I32", "Int32", "IntStorage", np.dtype("<i4")),
    BF16,
    FP16,
    DType("uint16", "U16", "UInt16", None, np.dtype("<u2")),
    DType("int16", "I16", "Int16", "ShortStorage", np.dtype("<i2")),
    DType("int8", "I8", "Int8", "CharStorage", np.dtype("i1")),
    DType("uint8", "U8", "UInt8", "ByteStorage", np.dtype("u1")),
    DType("bool", "BOOL", "Bool", "BoolStorage", np.dtype("?")),
)

_SIGNLESS = {4: 0x7FFFFFFF, 2: 0x7FFF}
_BY_RANGE = (FP16, BF16, FP32)  # each holds, at least nearly, what those before it hold
_INFINITY = {FP32: 0x7F800000, FP16: 0x7C00, BF16: 0x7F80}


def float_named(name: Any, where: str) -> DType:
    """The type of weights that goes by ``name``. Raises InputError, beginning with ``where``, if there is none."""
    if not isinstance(name, str) or name not in FLOAT_SPELLINGS:
        raise InputError(f"{where}: unknown dtype {quote(name)}; known: {', '.join(FLOAT_SPELLINGS)}")
    return FLOAT_SPELLINGS[name]


def cast(values: np.ndarray, source: DType, target: DType) -> np.ndarray:
    """Convert between the types of ``FLOATS``; ties go to even, and too large a value becomes infinite."""
    if source == target:
        return values
    if source == FP16 or source == BF16 and target == FP16:  # looking all values up is two to four times as fast
        return np.take(_sixteen_bits(source, target), values.view("<u2"), mode="wrap")  # no index to be checked
    return _narrow(_widen(values, source), target)


@dataclass
class CastLoss:
    """How many values a cast could not keep even nearly."""

    overflow: int = 0  # finite before, infinite after
    underflow: int = 0  # not zero before, zero after

    def add(self, before: np.ndarray, source: DType, after: np.ndarray, target: DType) -> None:
        """Count one block, given before and after ``cast``."""
        if _BY_RANGE.index(source) <= _BY_RANGE.index(target):
            return
        infinite, zero = _extremes(after, target)
        if infinite or zero:
            infinite_before, zero_before = _extremes(before, source)
            self.overflow += infinite - infinite_before
            self.underflow += zero - zero_before


@cache
def _sixteen_bits(source: DType, target: DType) -> np.ndarray:
    """What becomes of each of the 65,536 bit patterns."""
    return _narrow(_widen(np.arange(1 << 16, dtype="<u2").view(source.carrier), source), target)


def _widen(values: np.ndarray, source: DType) -> np.ndarray:
    if source == BF16:
        return (values.astype(np.uint32) << 16).view(np.float32)
    return values.astype(np.float32, copy=False)


def _narrow(values: np.ndarray, target: DType) -> np.ndarray:
    if target == BF16:
        return _round_to_bf16(np.ascontiguousarray(values).view(np.uint32))
    with np.errstate(over="ignore"):  # overflow is counted, not warned about
        return values.astype(target.carrier, copy=False)


def _round_to_bf16(bits: np.ndarray) -> np.ndarray:
    """Upper halves of fp32 bit patterns, rounded to nearest even; a NaN stays a (quiet) NaN of the same sign."""
    rounded = bits >> 16
    rounded &= 1
    rounded += 0x7FFF
    rounded += bits
    rounded >>= 16
    is_nan = (bits & _SIGNLESS[4]) > _INFINITY[FP32]
    if is_nan.any():
        rounded[is_nan] = bits[is_nan] >> 16 | 0x40
    return rounded.astype(np.uint16)


def _extremes(values: np.ndarray, dtype: DType) -> tuple[int, int]:
    """How many values are infinite and how many are zero."""
    bits = values.view(f"<u{dtype.itemsize}") & np.array(_SIGNLESS[dtype.itemsize], f"<u{dtype.itemsize}")
    return np.count_nonzero(bits == _INFINITY[dtype]), np.count_nonzero(bits == 0)
