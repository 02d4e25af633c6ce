"""Kernels in place of MindSpore's operators: against fp64, beside the error of numpy's or MindSpore's own fp32."""

from __future__ import annotations

import math
import shutil
from pathlib import Path

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, nn

from ms_impl.cells.add import Add
from ms_impl.cells.attention import ComposedAttention
from ms_impl.cells.decoder import GatedMLP
from ms_impl.cells.encoder_attention import EncoderAttention
from ms_impl.cells.gelu import Gelu, GeluTanh
from ms_impl.cells.heads import JoinHeads, SplitHeads, SplitPacked
from ms_impl.cells.kv_cache import LayerCache
from ms_impl.cells.linear import Linear
from ms_impl.cells.norms import LayerNorm, RMSNorm
from ms_impl.cells.patch_convolution import PatchConvolution
from ms_impl.errors import InputError
from ms_impl.kernels import build
from ms_impl.kernels.build import library
from ms_impl.kernels.operators import (
    Operator,
    linear_rows_operator,
    multiply_in_bf16,
    use_kernels,
    weighted_rows_operator,
)

pytestmark = pytest.mark.skipif(library("linear") is None, reason="no C++ compiler here, or kernels are switched off")

DTYPES = {"fp32": ms.float32, "fp16": ms.float16, "bf16": ms.bfloat16}
FLOOR = 4  # times the error of fp32 itself


def processor_has(*features: str) -> bool:
    """Whether the processor says so."""
    cpuinfo = Path("/proc/cpuinfo")
    return cpuinfo.exists() and set(features) <= set(cpuinfo.read_text().split())


TILES, PRODUCTS_OF_BF16 = processor_has("amx_bf16", "avx512_bf16"), processor_has("avx512_bf16")


@pytest.fixture(autouse=True)
def pynative():
    ms.set_context(mode=ms.PYNATIVE_MODE)


def normal(*shape: int, seed: int = 0, scale: float = 1.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(scale=scale, size=shape).astype(np.float32)


def wide(tensor: Tensor) -> np.ndarray:
    """fp64; bf16 by its bits, for which nothing is rounded."""
    return tensor.astype(ms.float32).asnumpy().astype(np.float64)


def with_kernels(cell: nn.Cell) -> nn.Cell:
    use_kernels(cell)
    assert any(getattr(each, "kernel", None) is not None for _, each in cell.cells_and_names())
    return cell.set_train(False)


def random_linear(inputs: int, outputs: int, bias: bool, dtype: ms.Type) -> Linear:
    cell = Linear(inputs, outputs, bias, dtype)
    cell.weight.set_data(Tensor(normal(outputs, inputs, seed=1), dtype))
    if bias:
        cell.bias.set_data(Tensor(normal(outputs, seed=2), dtype))
    return with_kernels(cell)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rows, outputs, inputs", [(1, 1, 1), (7, 33, 300), (67, 16, 8), (13, 130, 513), (521, 5, 3)])
def test_a_product_is_as_exact_as_that_of_numpy(dtype, rows, outputs, inputs):
    cell, x = random_linear(inputs, outputs, rows != 7, DTYPES[dtype]), normal(rows, inputs)
    weight, bias = wide(cell.weight), 0 if cell.bias is None else wide(cell.bias)
    expected = x.astype(np.float64) @ weight.T + bias
    size = np.abs(x) @ np.abs(weight.T) + np.abs(bias)  # what the terms could add up to
    plain, found = x @ weight.T.astype(np.float32) + bias, wide(cell(Tensor(x)))
    floor = (np.abs(plain - expected) / size).max()
    assert (np.abs(found - expected) / size).max() <= FLOOR * max(floor, np.finfo(np.float32).eps)
    assert (np.abs(found - expected - 1e-4 * size) / size).max() > FLOOR * floor  # a control
    # All of x counts: its last eight bits alone would change this by more.
    assert rms(found - expected) <= max(FLOOR * rms(plain - expected), 2**-23 * rms(expected))
    cut = (x.view(np.uint32) & 0xFFFFFF00).view(np.float32)
    if inputs > 100:
        assert rms(cut @ weight.T + bias - expected) > FLOOR * rms(plain - expected)


def rms(x: np.ndarray) -> float:
    return float(np.sqrt(np.square(x).mean()))


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_product_of_some_rows_is_that_part_of_the_whole(dtype):
    cell, x = random_linear(70, 96, True, DTYPES[dtype]), Tensor(normal(41, 70))
    multiply, every = linear_rows_operator(), cell(x).asnumpy()
    for rows in (np.arange(0, 32), np.arange(32, 64), np.arange(63, 96)):
        found = multiply(x, cell.weight, cell.bias, Tensor(rows.astype(np.int32)))
        np.testing.assert_array_equal(found.asnumpy(), every[:, rows])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rows, depth, width", [(1, 1, 1), (7, 300, 33), (67, 8, 16), (13, 513, 130), (521, 3, 5)])
def test_weighted_rows_of_a_table_are_as_exact_as_numpys(dtype, rows, depth, width):
    """Of its first rows: it has three more."""
    weights, table = normal(rows, depth), Tensor(normal(depth + 3, width, seed=1), DTYPES[dtype])
    used = wide(table)[:depth]
    expected, plain = weights.astype(np.float64) @ used, weights @ used.astype(np.float32)
    found = wide(weighted_rows_operator()(Tensor(weights), ms.Parameter(table)))
    assert rms(found - expected) <= max(FLOOR * rms(plain - expected), 2**-23 * rms(expected))
    cut = (weights.view(np.uint32) & 0xFFFFFF00).view(np.float32)  # a control: without the last bits
    if depth > 100:
        assert rms(cut @ used - expected) > FLOOR * rms(plain - expected)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bias", [False, True])
def test_patches_are_embedded_from_weights_as_they_are(dtype, bias):
    cell, x = PatchConvolution(24, (3, 2, 5), bias, DTYPES[dtype]), Tensor(normal(2, 7, 30))
    cell.weight.set_data(Tensor(normal(24, 3, 2, 5, seed=1), DTYPES[dtype]))
    if bias:
        cell.bias.set_data(Tensor(normal(24, seed=2), DTYPES[dtype]))
    plain = cell.set_train(False)(x).asnumpy()
    found = with_kernels(cell)(x).asnumpy()
    np.testing.assert_allclose(found, plain, atol=FLOOR * 30 * np.finfo(np.float32).eps)
    assert np.abs(found).max() > 1


def test_products_of_16_bits_are_rounded_once():
    cell, x = random_linear(300, 20, True, ms.float16), Tensor(normal(2, 3, 300), ms.float16)
    expected = wide(x) @ wide(cell.weight).T + wide(cell.bias)
    assert cell(x).dtype == ms.float16 and cell(x).shape == (2, 3, 20)
    np.testing.assert_allclose(wide(cell(x)), expected, rtol=2**-10, atol=1e-3)


@pytest.mark.parametrize("dtype", DTYPES)
def test_weights_are_widened_bit_for_bit(dtype):
    values = np.array([0.1, -3.0, 1e-30, 6e-8, 3e38, -0.0, np.inf, np.nan], np.float32).astype(np.float32)
    cell = Linear(1, values.size, False, DTYPES[dtype])
    cell.weight.set_data(Tensor(values.reshape(-1, 1), DTYPES[dtype]))
    found = with_kernels(cell)(Tensor(np.ones((1, 1), np.float32))).asnumpy()[0]
    expected = cell.weight.astype(ms.float32).asnumpy()[:, 0]
    finite = np.isfinite(expected)
    np.testing.assert_array_equal(found[finite], expected[finite])  # the sum begins with zero: a negative zero is lost
    assert not np.isfinite(found[~finite]).any()  # by tiles, infinity may become NaN


@pytest.mark.skipif(not TILES, reason="no tiles of bf16 (AMX) here")
@pytest.mark.parametrize("dtype", DTYPES)
def test_without_tiles_it_is_as_exact(tmp_path, monkeypatch, dtype):
    """The path of processors that have none; and with tiles other bits come out, so that these are what is tested else."""
    cell, x = random_linear(300, 70, False, DTYPES[dtype]), Tensor(normal(40, 300))
    by_tiles = cell(x).asnumpy()
    monkeypatch.setattr(build, "FLAGS", (*build.FLAGS, "-mno-amx-tile"))
    build.compile_to(tmp_path / "linear.so", shutil.which("c++"), "linear")
    plain = Operator(f"{tmp_path}/linear.so:linear", lambda x, w: (*x[:-1], w[0]), lambda x, w: x, "aot")
    found = plain(x, cell.weight).asnumpy()
    size = np.abs(x.asnumpy()) @ np.abs(wide(cell.weight).T)
    assert 0 < (np.abs(found - by_tiles) / size).max() <= FLOOR * np.finfo(np.float32).eps
    plain = Operator(f"{tmp_path}/linear.so:weighted_rows", lambda x, w: (*x[:-1], w[1]), lambda x, w: x, "aot")
    x, size = Tensor(normal(40, 60)), np.abs(normal(40, 60)) @ np.abs(wide(cell.weight)[:60])
    found, by_tiles = plain(x, cell.weight).asnumpy(), weighted_rows_operator()(x, cell.weight).asnumpy()
    assert 0 < (np.abs(found - by_tiles) / size).max() <= FLOOR * np.finfo(np.float32).eps


def test_what_is_not_finite_stays_in_its_row_and_column():
    cell, x = random_linear(40, 20, True, ms.bfloat16), normal(9, 40)
    clean = cell(Tensor(x)).asnumpy()
    x[4, 7] = np.nan
    found = cell(Tensor(x)).asnumpy()
    assert np.isnan(found[4]).all()
    np.testing.assert_array_equal(np.delete(found, 4, 0), np.delete(clean, 4, 0))


@pytest.mark.parametrize("rows", [1, 2, 5, 6, 7, 600])
def test_a_row_gives_the_same_bits_alone(rows):
    cell, x = random_linear(700, 45, True, ms.bfloat16), normal(600, 700)
    every = cell(Tensor(x)).asnumpy()
    np.testing.assert_array_equal(cell(Tensor(x[-rows:])).asnumpy(), every[-rows:])


@pytest.mark.skipif(not PRODUCTS_OF_BF16, reason="no products of bf16 (AMX, AVX512-BF16) here")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rows, outputs, inputs", [(40, 70, 300), (1, 1, 1), (13, 33, 31), (25, 64, 1025)])
def test_products_of_bf16_round_both_factors_and_nothing_else(monkeypatch, tmp_path, dtype, rows, outputs, inputs):
    """By tiles and, where there are none, by pairs; a row gives the same bits alone."""
    weight, x = Tensor(normal(outputs, inputs, seed=1), DTYPES[dtype]), Tensor(normal(rows, inputs))
    rounded = [wide(each.astype(ms.bfloat16)) for each in (x, weight)]
    size = np.abs(rounded[0]) @ np.abs(rounded[1].T)
    for multiply in products_of_bf16(monkeypatch, tmp_path):
        found = wide(multiply(x, weight))
        assert (np.abs(found - rounded[0] @ rounded[1].T) / size).max() <= FLOOR * np.finfo(np.float32).eps
        np.testing.assert_array_equal(wide(multiply(x[-1:], weight))[0], found[-1])
        if inputs > 1:  # a control: not of what was given
            assert (np.abs(found - wide(x) @ wide(weight).T) / size).max() > 1e-4


def products_of_bf16(monkeypatch, folder: Path):
    """That of the cell; and where it is by tiles the one of processors without."""
    cell = Linear(1, 1, False)
    multiply_in_bf16(cell)
    yield with_kernels(cell).kernel
    if TILES:
        monkeypatch.setattr(build, "FLAGS", (*build.FLAGS, "-mno-amx-tile"))
        build.compile_to(folder / "linear.so", shutil.which("c++"), "linear")
        yield Operator(f"{folder}/linear.so:linear_of_bf16", lambda x, w: (*x[:-1], w[0]), lambda x, w: x, "aot")


@pytest.mark.skipif(PRODUCTS_OF_BF16, reason="this processor multiplies bf16")
def test_a_processor_without_products_of_bf16_is_told():
    with pytest.raises(InputError, match="does not multiply bf16"):
        multiply_in_bf16(Linear(3, 2))


EXACT = {
    "gelu": (Gelu, lambda x: x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))),
    "gelu_tanh": (GeluTanh, lambda x: 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))),
}


@pytest.mark.parametrize("name", EXACT)
@pytest.mark.parametrize("dtype", ["fp32", "fp16"])
def test_activations(name, dtype):
    make, exact = EXACT[name]
    x = Tensor(np.linspace(-9, 9, 10007, dtype=np.float32).reshape(1, -1), DTYPES[dtype])
    error = np.abs(wide(with_kernels(make())(x)) - exact(wide(x))) / np.maximum(np.abs(wide(x)), 1)
    assert error.max() <= (4e-7 if dtype == "fp32" else 1e-3)
    ends = wide(with_kernels(make())(Tensor(np.array([np.inf, np.nan, 0], np.float32))))
    np.testing.assert_array_equal(ends, [np.inf, np.nan, 0])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", [LayerNorm, RMSNorm])
def test_norms(kind, dtype):
    cell, x = kind(101, 1e-6, DTYPES[dtype]), normal(3, 5, 101) + 2
    for number, parameter in enumerate(cell.get_parameters()):
        parameter.set_data(Tensor(normal(101, seed=number), DTYPES[dtype]))
    y = x.astype(np.float64)
    y = y - (y.mean(-1, keepdims=True) if kind is LayerNorm else 0)
    expected = y / np.sqrt(np.square(y).mean(-1, keepdims=True) + 1e-6) * wide(cell.weight)
    expected += wide(cell.bias) if kind is LayerNorm else 0
    plain = np.abs(wide(cell.set_train(False)(Tensor(x))) - expected).max()
    assert np.abs(wide(with_kernels(cell)(Tensor(x))) - expected).max() <= max(FLOOR * plain, 2e-6)


def test_a_gated_layer():
    cell = GatedMLP(20, 33, ms.float32)
    for number, parameter in enumerate(cell.get_parameters()):
        parameter.set_data(Tensor(normal(*parameter.shape, seed=number, scale=2.0)))
    gate, up, down = (wide(layer.weight).T for layer in (cell.gate_proj, cell.up_proj, cell.down_proj))
    x = normal(3, 20).astype(np.float64)
    expected = (x @ gate / (1 + np.exp(-x @ gate)) * (x @ up)) @ down
    found = wide(with_kernels(cell)(Tensor(x.astype(np.float32))))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("length", [3, 300])
@pytest.mark.parametrize("dtype", ["fp32", "fp16"])
@pytest.mark.parametrize("rows_of_angles", [0, 1, 2])
def test_heads_have_the_bits_of_plain_operators(dtype, rows_of_angles, length):
    heads, width = 3, 10
    angles = [Tensor(normal(rows_of_angles, 1, length, width, seed=seed)) for seed in (1, 2) if rows_of_angles]
    cells = [SplitHeads(heads, width), *(SplitPacked(heads, width, by_head, rotary=True) for by_head in (True, False))]
    for cell, times in zip(cells, (1, 3, 3)):
        x = Tensor(normal(2, length, times * heads * width), DTYPES[dtype])
        plain = cell.set_train(False)(x, *angles)
        found = with_kernels(cell)(x, *angles)
        for ours, expected in zip(found if times == 3 else [found], plain if times == 3 else [plain], strict=True):
            assert ours.dtype == x.dtype
            np.testing.assert_array_equal(wide(ours), wide(expected))
    x, join = Tensor(normal(2, heads, length, width), DTYPES[dtype]), JoinHeads().set_train(False)
    plain = wide(join(x))
    np.testing.assert_array_equal(wide(with_kernels(join)(x)), plain)
    assert plain.shape == (2, length, heads * width)


@pytest.mark.parametrize("dtype", ["fp32", "fp16"])
def test_sums_have_the_bits_of_the_plain_operator(dtype):
    x, y = (Tensor(normal(3, 1, 5001, seed=seed), DTYPES[dtype]) for seed in (1, 2))
    cell = Add().set_train(False)
    plain = wide(cell(x, y))
    assert with_kernels(cell)(x, y).dtype == x.dtype
    np.testing.assert_array_equal(wide(cell(x, y)), plain)


def attended(q, k, v, visible, dtype=np.float64) -> np.ndarray:
    """[B, H, T, d] by visible bool [B, 1, T, S]; zeros for a query that sees nothing."""
    q, k, v = (x.astype(dtype) for x in (q, *(np.repeat(x, q.shape[1] // x.shape[1], 1) for x in (k, v))))
    scores = np.where(visible, q @ k.swapaxes(-1, -2) / dtype(math.sqrt(q.shape[-1])), dtype(-np.inf))
    highest = scores.max(-1, keepdims=True)
    weights = np.exp(scores - np.where(np.isfinite(highest), highest, 0))
    return weights @ v / np.maximum(weights.sum(-1, keepdims=True), np.finfo(dtype).tiny)


def check_attention(found: np.ndarray, q, k, v, visible) -> float:
    """Beside the error of numpy's fp32; the tolerance."""
    expected = attended(q, k, v, visible)
    tolerance = FLOOR * np.abs(attended(q, k, v, visible, np.float32) - expected).max()
    assert np.abs(found - expected).max() <= tolerance
    return tolerance


SEGMENTS = np.array([[1] * 300 + [2] * 250 + [0] * 50, [0] * 20 + [3] * 580], np.int32)


@pytest.mark.parametrize("heads, kv_heads, width", [(4, 2, 20), (2, 2, 13)])
def test_causal_attention(heads, kv_heads, width):
    first, count = 270, 41
    q = normal(2, heads, count, width, scale=3.0)
    k, v = normal(2, kv_heads, 600, width, seed=1), normal(2, kv_heads, 600, width, seed=2)
    columns = np.tile(np.arange(first, first + count, dtype=np.int32), (2, 1))
    own = SEGMENTS[:, first : first + count]
    visible = (own[:, :, None] == SEGMENTS[:, None]) & (np.arange(600) <= columns[:, :, None])
    cell, given = with_kernels(ComposedAttention()), [Tensor(x) for x in (q, k, v)]
    found = wide(cell(*given, cell.causal_mask(Tensor(SEGMENTS), Tensor(columns), heads, ms.float32)))
    tolerance = check_attention(found, q, k, v, visible[:, None])
    alone = cell(
        *(x[1:] for x in given), cell.causal_mask(Tensor(SEGMENTS[1:]), Tensor(columns[1:]), heads, ms.float32)
    )
    np.testing.assert_array_equal(wide(alone)[0], found[1])
    halves = [Tensor(x, ms.float16) for x in (q, k, v)]
    rounded = cell(*halves, cell.causal_mask(Tensor(SEGMENTS), Tensor(columns), heads, ms.float16))
    exact = attended(*map(wide, halves), visible[:, None])
    np.testing.assert_allclose(wide(rounded), exact, rtol=2**-10, atol=1e-5)
    visible[:, 5, first] = False  # a control
    assert np.abs(found - attended(q, k, v, visible[:, None])).max() > tolerance


@pytest.mark.skipif(not TILES, reason="no tiles of bf16 (AMX) here")
@pytest.mark.parametrize("dtype", ["fp32", "fp16"])
@pytest.mark.parametrize("heads, kv_heads, width", [(4, 2, 20), (2, 2, 13)])
def test_attention_of_bf16_rounds_the_factors_of_both_products(dtype, heads, kv_heads, width):
    """Weights that lie between two numbers of bf16 may be rounded to either: most queries have none."""
    q = Tensor(normal(2, heads, 600, width, scale=3.0), DTYPES[dtype])
    k, v = (Tensor(normal(2, kv_heads, 600, width, seed=seed), DTYPES[dtype]) for seed in (1, 2))
    visible = (SEGMENTS[:, None, :, None] == SEGMENTS[:, None, None]) & (SEGMENTS[:, None, :, None] != 0)
    cell = ComposedAttention()
    multiply_in_bf16(cell)
    cell = with_kernels(cell)
    found = wide(cell(q, k, v, cell.segment_mask(Tensor(SEGMENTS), heads, ms.float32)))
    given = [wide(each) for each in (q, k, v)]
    errors, otherwise = (np.abs(found - each(*given, visible)).max(-1) for each in (attended_of_bf16, attended))
    near = 2e-6 if dtype == "fp32" else 2e-3
    assert (errors <= near).mean() > 0.9 and errors.max() <= 2**-8 * np.abs(given[2]).max()
    assert (otherwise > near)[0, :, :300].mean() > 0.6  # a control: of what was given it is not
    alone = cell.kernel(q[1:, :, 300:333], k[1:], v[1:], sight_of(SEGMENTS[1:], 300, 333))
    np.testing.assert_array_equal(wide(alone)[0], found[1, :, 300:333])


def attended_of_bf16(q, k, v, visible) -> np.ndarray:
    """As ``attended``, both factors of each product rounded to bf16; sums are of weights that are not."""
    rounded = [wide(Tensor(x).astype(ms.bfloat16)) for x in (q * np.float32(1 / math.sqrt(q.shape[-1])), k, v)]
    q, k, v = (np.repeat(x, q.shape[1] // x.shape[1], 1).astype(np.float64) for x in rounded)
    scores = np.where(visible, q @ k.swapaxes(-1, -2), -np.inf)
    highest = scores.max(-1, keepdims=True)
    weights = np.exp(scores - np.where(np.isfinite(highest), highest, 0))
    seen = wide(Tensor(weights.astype(np.float32)).astype(ms.bfloat16)).astype(np.float64)
    return seen @ v / np.maximum(weights.sum(-1, keepdims=True), np.finfo(np.float64).tiny)


@pytest.mark.parametrize(
    "dtype, held, kernels",
    [(*of, kernels) for of in (("fp32", "fp32"), ("fp16", "fp16")) for kernels in (True, False)]
    + [("fp32", "bf16", True)],
)
def test_attention_to_a_cache_writes_it_first(dtype, held, kernels):
    """A cache has the keys and values that it had, and the new ones at their columns; the others stay as they are."""
    heads, kv_heads, width, columns = 4, 2, 16, np.arange(270, 311, dtype=np.int32)
    q = Tensor(normal(2, heads, 41, width), DTYPES[dtype])
    k, v = (Tensor(normal(2, kv_heads, 41, width, seed=seed), DTYPES[dtype]) for seed in (1, 2))
    cache = LayerCache(2, kv_heads, 600, width, DTYPES[held])
    for seed, parameter in ((3, cache.keys), (4, cache.values)):
        parameter.set_data(Tensor(normal(*parameter.shape, seed=seed), DTYPES[held]))
    before = [wide(each).reshape(2, kv_heads, 600, width) for each in (cache.keys, cache.values)]
    cell = with_kernels(ComposedAttention()) if kernels else ComposedAttention().set_train(False)
    where = Tensor(np.tile(columns, (2, 1)))
    mask = cell.causal_mask(Tensor(SEGMENTS), where, heads, DTYPES[dtype])
    found = wide(cell.cached(q, k, v, mask, cache, where))
    for new, old, parameter in zip((k, v), before, (cache.keys, cache.values)):
        old[:, :, columns] = wide(new.astype(DTYPES[held]))
        np.testing.assert_array_equal(wide(parameter).reshape(old.shape), old)
    whole = [parameter.reshape(2, kv_heads, 600, width) for parameter in (cache.keys, cache.values)]
    np.testing.assert_array_equal(found, wide(cell(q, *whole, mask)))


def sight_of(segments: np.ndarray, first: int, last: int) -> Tensor:
    """What the kernel takes for the queries of some columns that see all of their segment."""
    own = segments[:, first:last]
    return Tensor(np.concatenate([segments, own, np.full_like(own, segments.shape[1])], 1))


def test_attention_within_segments_and_without_a_mask():
    q, k, v = (normal(2, 3, 600, 24, seed=number) for number in range(3))
    same = (SEGMENTS[:, :, None] == SEGMENTS[:, None]) & (SEGMENTS[:, :, None] != 0)
    cell = with_kernels(ComposedAttention())
    found = wide(cell(*map(Tensor, (q, k, v)), cell.segment_mask(Tensor(SEGMENTS), 3, ms.float32)))
    check_attention(found, q, k, v, same[:, None])
    check_attention(wide(cell(*map(Tensor, (q[:, :, :30], k, v)))), q[:, :, :30], k, v, True)


def test_a_graph_computes_the_same_bits():
    attention, x = with_kernels(EncoderAttention(2, 8)), Tensor(normal(1, 50, 16))
    linear, segments = random_linear(16, 16, True, ms.bfloat16), Tensor(np.ones((1, 50), np.int32))
    turns = Tensor(normal(1, 1, 50, 8))

    class Both(nn.Cell):
        def __init__(self):
            super().__init__()
            self.attention, self.linear = attention, linear

        def construct(self, x: Tensor) -> Tensor:
            q = self.linear(x)
            return self.attention(q, x, x, self.attention.within(segments, x.dtype), turns, turns)

    cell = Both().set_train(False)
    expected = cell(x).asnumpy()
    ms.set_context(mode=ms.GRAPH_MODE)
    np.testing.assert_array_equal(cell(x).asnumpy(), expected)


def test_long_rows_need_no_blocks():
    length = 1100
    cell, x = EncoderAttention(2, 8, rotary=False).set_train(False), Tensor(normal(1, length, 16))
    segments = Tensor(np.repeat([[1, 2]], length // 2, 1).astype(np.int32))
    plain = cell(x, x, x, cell.within(segments, ms.float32)).asnumpy()
    found = with_kernels(cell)
    np.testing.assert_allclose(found(x, x, x, found.within(segments, ms.float32)).asnumpy(), plain, atol=2e-5)


def test_training_takes_no_kernel():
    cell, x = random_linear(8, 4, True, ms.float32).set_train(True), Tensor(normal(3, 8))
    gradient = ms.grad(lambda x: cell(x).sum())(x).asnumpy()
    np.testing.assert_allclose(gradient, np.tile(cell.weight.asnumpy().sum(0), (3, 1)), rtol=1e-5, atol=1e-6)
