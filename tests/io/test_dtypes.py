"""Casts against torch's, on every 16-bit pattern and on fp32 patterns of every exponent."""

import numpy as np
import pytest
import torch

from ms_impl.io.dtypes import BF16, FLOATS, FP16, FP32, CastLoss, cast
from ms_impl.io.tensors import ArrayTensor, CastTensor

TORCH = {FP32: torch.float32, FP16: torch.float16, BF16: torch.bfloat16}


def patterns(dtype) -> np.ndarray:
    """Every value of a 16-bit type; for fp32 every upper half, with lower halves on both sides of every rounding."""
    halves = np.arange(1 << 16, dtype=np.uint32)
    if dtype is not FP32:
        return halves.astype(np.uint16).view(dtype.carrier)
    lower = np.random.default_rng(0).integers(0, 1 << 16, halves.size, dtype=np.uint32)
    half_of_fp16s_last_place = 0x1000
    tails = (0, 1, 0x7FFF, 0x8000, 0x8001, half_of_fp16s_last_place, lower)
    return np.concatenate([(halves << 16) | tail for tail in tails]).astype("<u4").view("<f4")


def as_torch(values: np.ndarray, dtype) -> torch.Tensor:
    bits = torch.from_numpy(values.view(f"<i{dtype.itemsize}").copy())
    return bits.view(TORCH[dtype])


@pytest.mark.parametrize("source", FLOATS.values(), ids=str)
@pytest.mark.parametrize("target", FLOATS.values(), ids=str)
def test_cast_equals_torch(source, target):
    values = patterns(source)
    expected = as_torch(values, source).to(TORCH[target])
    found = as_torch(cast(values, source, target), target)
    nan = torch.isnan(expected)
    assert torch.equal(torch.isnan(found), nan)
    integer = {2: torch.int16, 4: torch.int32}[target.itemsize]
    assert torch.equal(found[~nan].view(integer), expected[~nan].view(integer))
    assert found.numel() == values.size > 0


def test_a_cast_to_the_same_type_keeps_every_nan():
    values = patterns(FP32)
    assert cast(values, FP32, FP32) is values


@pytest.mark.parametrize("source, target", [(BF16, FP16), (FP32, FP16), (FP32, BF16), (FP16, BF16)], ids=str)
def test_loss_counts_what_became_infinite_or_zero(source, target):
    values = patterns(source)
    before = as_torch(values, source)
    after = before.to(TORCH[target])
    loss = CastLoss()
    loss.add(values, source, cast(values, source, target), target)
    assert loss.overflow == int((torch.isinf(after) & torch.isfinite(before)).sum())
    assert loss.underflow == int(((after == 0) & (before != 0)).sum())
    if source is not FP16:
        assert loss.overflow > 0


def test_what_was_cast_begins_with_a_line_of_the_cache():
    kept = [CastTensor(ArrayTensor("x", np.ones((size, 3), np.float32), FP32), BF16, CastLoss()).array()
            for size in range(1, 40)]  # fmt: skip
    assert {array.ctypes.data % 64 for array in kept} == {0}
    assert all((array == 0x3F80).all() and array.shape == (size, 3) for size, array in enumerate(kept, 1))
