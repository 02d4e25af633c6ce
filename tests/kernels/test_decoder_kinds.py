"""The decoding kernel over every kind of decoder that it takes, against the same step in fp64."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path

import mindspore as ms
import numpy as np
import pytest
from decoder_step import exact_step, numbers, random_cache, random_decoder

from ms_impl.generate.decoder_model import DecoderParts, Projection
from ms_impl.kernels.build import library
from ms_impl.kernels.decode_step import KERNEL, FusedTokenStep

pytestmark = pytest.mark.skipif(library(KERNEL) is None, reason="no C++ compiler here, or kernels are switched off")

# max|difference| / max|exact|. Seen: 3e-7 to 6e-7 with an fp32 cache, where one rounding is 6e-8 and the kernel's
# sums have up to 48 terms in each of 14 products; an fp16 cache rounds keys and values once, 5e-4 at most, one of bf16
# eight times as much.
TOLERANCE, TOLERANCE_FP16_CACHE, TOLERANCE_BF16_CACHE, CONTROL = 2e-6, 1e-3, 8e-3, 1e-2
TOLERANCE_LONG = 3e-6  # where sums have 1,100 terms; seen: 2.2e-6 with AVX2, 1.6e-6 with AVX-512, with tiles or without
DTYPES = {"fp32": ms.float32, "fp16": ms.float16, "bf16": ms.bfloat16}
COLUMNS = 21
ROWS = (20, 3, 0, 9)  # the column that each writes
LONG_ROWS = (148, 41, 0, 96)  # likewise; of odd and even numbers of columns
# What rounding all factors to bf16, or those of attention, changes; seen: 4e-3 to 9e-3, with 1.3e-7 off the exact ones.
ROUNDED = 1e-3
TILES = "amx_bf16" in Path("/proc/cpuinfo").read_text()


def inputs(rng: np.random.Generator, parts: DecoderParts, scaled: bool = False, rows: Sequence[int] = ROWS) -> tuple:
    """Rows at columns and positions of their own; the last is padded on the left, the first has two segments."""
    batch, columns = len(rows), np.array(rows, np.int32)[:, None]
    segments = (np.arange(max(rows) + 1) <= columns).astype(np.int32)
    segments[3, :4] = 0
    segments[0, 5:] = 2
    angles = rng.uniform(0, 6, (batch, 1, 1, parts.head_dim // 2))
    angles = np.concatenate((angles, angles), -1).astype(np.float32)
    tokens = rng.integers(0, parts.embedding.shape[0], (batch, 1), dtype=np.int32)
    q_scale = rng.uniform(1, 2, (batch, 1, 1, 1)).astype(np.float32) if scaled else None
    return tokens, segments, columns, np.cos(angles), np.sin(angles), q_scale


def error(found: np.ndarray, exact: np.ndarray) -> float:
    return float(np.abs(found - exact).max() / np.abs(exact).max())


def row_errors(found: np.ndarray, exact: np.ndarray) -> list[float]:
    """From the least to the greatest."""
    return sorted(error(row, exact_row) for row, exact_row in zip(found, exact, strict=True))


def run(parts: DecoderParts, given: tuple, cache) -> np.ndarray:
    return FusedTokenStep(parts, cache, library(KERNEL))(*given)


KINDS = list(product((False, True), (False, True), (False, True), (1, 2, 8), (False, True)))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("packed, bias, qk_norm, group, wide", KINDS)
def test_logits_are_those_of_the_exact_step(packed, bias, qk_norm, group, wide, dtype):
    rng = np.random.default_rng(0)
    # 20 and 37: neither fills whole vectors.
    shape = {"heads": 8, "kv_heads": 8 // group, "dim": 20 if wide else 6, "width": 37 if wide else 48}
    options = {"packed": packed, "bias": bias, "qk_norm": qk_norm, "tied": wide}
    parts = random_decoder(rng, DTYPES[dtype], layers=1, **shape, **options)
    given = inputs(rng, parts, scaled=packed)
    cache = random_cache(rng, parts, len(ROWS), COLUMNS, ms.float32)
    exact = exact_step(parts, cache, *given)
    assert error(run(parts, given, cache), exact) <= TOLERANCE


@pytest.fixture(params=product((1, 2, 20), ("fp32", "bf16")))
def rounded_decoder(request):
    """A decoder whose factors are rounded to bf16, with a cache of it: so many query heads for a key head."""
    rng, (group, dtype) = np.random.default_rng(3), request.param
    parts = random_decoder(
        rng, DTYPES[dtype], heads=2 * group, kv_heads=2, dim=64, width=96, inner=160, layers=1, qk_norm=True
    )
    parts = replace(parts, of_bf16=True)
    given = inputs(rng, parts, rows=LONG_ROWS)
    return parts, given, random_cache(rng, parts, len(LONG_ROWS), max(LONG_ROWS) + 1, ms.bfloat16)


def test_of_bf16_factors_are_rounded_and_nothing_else(rounded_decoder):
    parts, given, cache = rounded_decoder
    by_tiles = TILES and parts.heads > parts.kv_heads  # then those of attention, too
    found = run(parts, given, cache)
    # A number in the middle between two of bf16 falls to either side: with AVX2 that makes 2.6e-3 of one row.
    assert row_errors(found, exact_step(parts, cache, *given, by_tiles))[-2] <= TOLERANCE
    # Controls: nothing is rounded, or nothing in attention.
    assert row_errors(found, exact_step(replace(parts, of_bf16=False), cache, *given))[-2] > ROUNDED
    if by_tiles:
        assert row_errors(found, exact_step(parts, cache, *given))[-2] > ROUNDED


def test_of_bf16_a_row_has_the_bits_of_the_row_alone(rounded_decoder):
    parts, given, cache = rounded_decoder
    together = run(parts, given, cache)
    for row in range(len(LONG_ROWS)):
        alone = random_cache(np.random.default_rng(0), parts, 1, max(LONG_ROWS) + 1, ms.bfloat16)
        for single, whole in zip(alone.get_parameters(), cache.get_parameters(), strict=True):
            single.set_data(whole.reshape(len(LONG_ROWS), *single.shape)[row])
        own = tuple(None if each is None else each[row : row + 1] for each in given)
        np.testing.assert_array_equal(run(parts, own, alone), together[row : row + 1])


def test_the_column_itself_is_written_and_nothing_else(decoder):
    rng, parts, given = decoder
    cache = random_cache(rng, parts, len(ROWS), COLUMNS, ms.float32)
    before = [numbers(each) for each in cache.get_parameters()]
    exact = exact_step(parts, cache, *given)
    assert error(run(parts, given, cache), exact) <= TOLERANCE
    for old, parameter in zip(before, cache.get_parameters(), strict=True):
        changed = (numbers(parameter) != old).any(-1).reshape(len(ROWS), -1, COLUMNS)
        assert (changed == (np.arange(COLUMNS) == np.array(ROWS)[:, None, None])).all()
    assert error(run(parts, given, cache), exact) <= TOLERANCE  # and again, over what was written


@pytest.fixture
def decoder():
    rng = np.random.default_rng(1)
    parts = random_decoder(rng, ms.float32, heads=8, kv_heads=2, dim=6, width=48, bias=True, qk_norm=True)
    return rng, parts, inputs(rng, parts, scaled=True)


@pytest.mark.parametrize("dtype, tolerance", [("fp16", TOLERANCE_FP16_CACHE), ("bf16", TOLERANCE_BF16_CACHE)])
def test_a_cache_of_16_bits(decoder, dtype, tolerance):
    rng, parts, given = decoder
    cache = random_cache(rng, parts, len(ROWS), COLUMNS, DTYPES[dtype])
    exact = exact_step(parts, cache, *given)
    assert TOLERANCE < error(run(parts, given, cache), exact) <= tolerance


def test_a_row_has_the_bits_of_the_row_alone(decoder):
    rng, parts, given = decoder
    cache = random_cache(rng, parts, len(ROWS), COLUMNS, ms.float32)
    together = run(parts, given, cache)
    for row in range(len(ROWS)):
        own = slice(row, row + 1)
        alone = random_cache(rng, parts, 1, COLUMNS, ms.float32)
        for single, whole in zip(alone.get_parameters(), cache.get_parameters(), strict=True):
            single.set_data(ms.Tensor(whole.asnumpy().reshape(len(ROWS), *single.shape)[row]))
        np.testing.assert_array_equal(run(parts, tuple(each[own] for each in given), alone), together[own])


@pytest.fixture(scope="module", params=product(DTYPES, ((1077, 1109), (1088, 1120))))
def long_rows(request):
    """A decoder whose matrices have rows of two pieces, and whole vectors and a rest or whole tiles; 16 rows' cache."""
    rng, (dtype, (width, inner)) = np.random.default_rng(2), request.param
    parts = random_decoder(rng, DTYPES[dtype], heads=4, kv_heads=2, dim=6, width=width, inner=inner, layers=1)
    cache = random_cache(rng, parts, 16, COLUMNS, ms.float32)
    tokens = rng.integers(0, parts.embedding.shape[0], (16, 1), dtype=np.int32)
    columns = rng.integers(3, COLUMNS, (16, 1), dtype=np.int32)
    angles = rng.uniform(0, 6, (16, 1, 1, 6)).astype(np.float32)
    return (
        parts,
        cache,
        (tokens, (np.arange(COLUMNS) <= columns).astype(np.int32), columns, np.cos(angles), np.sin(angles)),
    )


def first_rows(long_rows, batch: int) -> tuple:
    """The decoder with the first rows alone: parts, what is given, a cache."""
    parts, cache, given = long_rows
    own = random_cache(np.random.default_rng(0), parts, batch, COLUMNS, ms.float32)
    for few, all_rows in zip(own.get_parameters(), cache.get_parameters(), strict=True):
        few.set_data(ms.Tensor(all_rows.asnumpy()[: few.shape[0]]))
    return parts, (*(each[:batch] for each in given), None), own


def test_long_rows_give_the_exact_step_and_the_same_bits_in_batches_of_any_size(long_rows):
    parts, given, cache = first_rows(long_rows, 16)
    exact = exact_step(parts, cache, *given)
    whole = run(parts, given, cache)
    assert error(whole, exact) <= TOLERANCE_LONG
    for batch in (1, 2, 3, 4, 5, 6, 7, 11):
        np.testing.assert_array_equal(run(*first_rows(long_rows, batch)), whole[:batch], f"{batch} rows")
    parts, given, cache = first_rows(long_rows, 5)  # control: what is left out of the second piece is found out
    layer, weight = parts.layers[0], parts.layers[0].down.weight
    values = numbers(weight).astype(np.float32)
    values[:, 1024:1056] = 0
    without = replace(layer, down=Projection(ms.Parameter(ms.Tensor(values, weight.dtype))))
    assert error(run(replace(parts, layers=[without]), given, cache), exact[:5]) > CONTROL


def test_the_bits_do_not_depend_on_where_in_the_cache_a_row_begins(decoder):
    rng, parts, given = decoder
    cache = random_cache(rng, parts, len(ROWS), COLUMNS, ms.float32)
    here = run(parts, given, cache)
    moved = random_cache(rng, parts, len(ROWS), COLUMNS + 5, ms.float32)
    for wide, narrow in zip(moved.get_parameters(), cache.get_parameters(), strict=True):
        values = wide.asnumpy().copy()
        values[:, 5:] = narrow.asnumpy()
        wide.set_data(ms.Tensor(values))
    tokens, segments, columns, *rotary = given
    shifted = np.pad(segments, ((0, 0), (5, 0)))
    np.testing.assert_array_equal(run(parts, (tokens, shifted, columns + 5, *rotary), moved), here)


@pytest.mark.parametrize("wrong", ["one position for all rows", "no q_scale", "no q bias", "no k norm", "key heads"])
def test_control_what_is_left_out_is_found_out(decoder, wrong):
    rng, parts, given = decoder
    cache = random_cache(rng, parts, len(ROWS), COLUMNS, ms.float32)
    exact = exact_step(parts, cache, *given)
    layer, other = parts.layers[0], list(given)
    if wrong == "one position for all rows":
        other[3:5] = (np.broadcast_to(each[:1], each.shape) for each in given[3:5])
    elif wrong == "no q_scale":
        other[5] = None
    elif wrong == "no q bias":
        parts = replace(parts, layers=[replace(layer, q=Projection(layer.q.weight)), *parts.layers[1:]])
    elif wrong == "no k norm":
        parts = replace(parts, layers=[replace(layer, k_norm=None), *parts.layers[1:]])
    else:  # the second key head in place of the first
        rows = parts.head_dim
        swapped = replace(layer.k, weight=ms.Parameter(ms.Tensor(np.roll(layer.k.weight.asnumpy(), rows, 0))))
        parts = replace(parts, layers=[replace(layer, k=swapped), *parts.layers[1:]])
    assert error(run(parts, tuple(other), cache), exact) > CONTROL


def test_parts_that_do_not_fit_are_refused(decoder):
    rng, parts, _ = decoder
    cache, layer = random_cache(rng, parts, 1, COLUMNS, ms.float32), parts.layers[1]
    for wrong in (
        replace(layer, down=layer.up), replace(layer, q=replace(layer.q, first=1)), replace(layer, ln_1=parts.head)
    ):  # fmt: skip
        with pytest.raises(ValueError, match="layer 1"):
            FusedTokenStep(replace(parts, layers=[parts.layers[0], wrong]), cache, library(KERNEL))
    with pytest.raises(ValueError, match="3 key heads"):
        FusedTokenStep(replace(parts, kv_heads=3), cache, library(KERNEL))


@pytest.mark.parametrize("structure", ["_Step", "_Layer"])
def test_a_kernel_of_other_structures_does_nothing_and_says_so(decoder, structure):
    rng, parts, given = decoder
    cache = random_cache(rng, parts, len(ROWS), COLUMNS, ms.float32)
    fused = FusedTokenStep(parts, cache, library(KERNEL))
    name = "size" if structure == "_Step" else "layer_size"
    setattr(fused.step, name, getattr(fused.step, name) + 8)
    with pytest.raises(RuntimeError, match="different structures"):
        fused(*given)
