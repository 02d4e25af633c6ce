"""The gradients of kernels: against PyTorch's of the same in fp64, beside the error of its fp32; and against what cells
compute without."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import mindspore as ms
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from mindspore import Tensor, nn

from ms_impl.cells.add import Add
from ms_impl.cells.decoder import GatedMLP
from ms_impl.cells.gelu import Gelu, GeluTanh
from ms_impl.cells.heads import JoinHeads, SplitHeads, SplitPacked
from ms_impl.cells.linear import Linear
from ms_impl.cells.norms import LayerNorm, RMSNorm
from ms_impl.cells.patch_convolution import PatchConvolution
from ms_impl.kernels.build import library
from ms_impl.kernels.operators import summed_products_operator, train_by_kernels

pytestmark = pytest.mark.skipif(library("rows") is None, reason="no C++ compiler here, or kernels are switched off")

FLOOR = 4  # times the error of fp32 itself; seen with AMX: up to 2.0
LEAST = 3e-7  # of the largest number, where fp32 happens to be off by less
FP16 = 4e-3  # of the largest number


@dataclass(frozen=True)
class Case:
    """A cell, the same in PyTorch of (x, its parameters …), and the shape of x."""

    make: Callable[[], nn.Cell]
    exact: Callable[..., torch.Tensor]
    shape: tuple[int, ...]


def rms_norm(x, weight):
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6) * weight


def mlp(x, gate, up, down):
    return (F.silu(x @ gate.T) * (x @ up.T)) @ down.T


CASES = {
    "linear": Case(lambda: Linear(70, 33), F.linear, (2, 41, 70)),
    "linear without bias": Case(lambda: Linear(513, 130, bias=False), F.linear, (67, 513)),
    "linear of many rows": Case(lambda: Linear(24, 600), F.linear, (1030, 24)),
    "linear to few": Case(lambda: Linear(600, 24), F.linear, (530, 600)),
    "patches": Case(
        lambda: PatchConvolution(20, (3, 2, 2), True, ms.float32),
        lambda x, w, b: F.linear(x, w.flatten(1), b),
        (2, 9, 12),
    ),
    "rms norm": Case(lambda: RMSNorm(101, 1e-6), rms_norm, (3, 50, 101)),
    "layer norm": Case(
        lambda: LayerNorm(101, 1e-6), lambda x, w, b: F.layer_norm(x, (101,), w, b, 1e-6), (3, 500, 101)
    ),
    "gelu": Case(Gelu, F.gelu, (3, 4001)),
    "gelu_tanh": Case(GeluTanh, lambda x: F.gelu(x, approximate="tanh"), (40, 5001)),
    "gated": Case(lambda: GatedMLP(20, 33, ms.float32), mlp, (50, 20)),
}


class Dotted(nn.Cell):
    """Σ cell(…) · slope, to be differentiated by what the cell is given and by its parameters; of tuples with factors."""

    def __init__(self, cell: nn.Cell):
        super().__init__()
        self.cell = cell

    def construct(self, slope: Tensor, *given: Tensor) -> Tensor:
        found = self.cell(*given)
        if isinstance(found, tuple):
            return (found[0] * slope).sum() + (found[1] * slope * 2).sum() + (found[2] * slope * 3).sum()
        return (found * slope).sum()


def drawn(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def with_parameters(cell: nn.Cell) -> nn.Cell:
    for seed, parameter in enumerate(cell.get_parameters(), 1):
        parameter.set_data(Tensor(drawn(*parameter.shape, seed=seed)))
    return cell


def gradients(cell: nn.Cell, by_kernel: bool, slope: Tensor, *given: Tensor, first: int = 1) -> list[np.ndarray]:
    """By the first inputs, then by the parameters."""
    dotted = Dotted(cell).set_train()
    if by_kernel:
        train_by_kernels(dotted)
        assert any(each.trains and each.kernel for _, each in cell.cells_and_names() if hasattr(each, "trains"))
    weights = ms.ParameterTuple(dotted.trainable_params())
    function = ms.grad(dotted, tuple(range(1, first + 1)), weights if len(weights) else None)
    return [each.astype(ms.float32).asnumpy() for each in flat(function(slope, *given))]


def flat(found: Tensor | tuple) -> list[Tensor]:
    return [each for part in found for each in flat(part)] if isinstance(found, tuple) else [found]


def exact(case: Case, cell: nn.Cell, slope: np.ndarray, x: np.ndarray, dtype: torch.dtype) -> list[np.ndarray]:
    given = [torch.tensor(a).to(dtype).requires_grad_() for a in (x, *(p.asnumpy() for p in cell.get_parameters()))]
    (case.exact(*given) * torch.tensor(slope).to(dtype)).sum().backward()
    return [each.grad.double().numpy() for each in given]


@pytest.mark.parametrize("mode", [ms.GRAPH_MODE, ms.PYNATIVE_MODE])
@pytest.mark.parametrize("name", CASES)
def test_gradients(mode, name):
    ms.set_context(mode=mode)
    case = CASES[name]
    cell, x = with_parameters(case.make()), 2 * drawn(*case.shape)
    slope = drawn(*cell(Tensor(x)).shape, seed=9)
    right, floor = (exact(case, cell, slope, x, dtype) for dtype in (torch.float64, torch.float32))
    found = gradients(cell, True, Tensor(slope), Tensor(x))
    x.reshape(-1)[0] += 1e-2  # a control
    changed = exact(case, cell, slope, x, torch.float64)
    for ours, theirs, plain, otherwise in zip(found, right, floor, changed, strict=True):
        tolerance = max(FLOOR * np.abs(plain - theirs).max(), LEAST * np.abs(theirs).max())
        assert np.abs(ours - theirs).max() <= tolerance < 1e-4 * np.abs(theirs).max()
        if not np.array_equal(otherwise, theirs):  # the bias of a linear layer knows nothing of x
            assert np.abs(ours - otherwise).max() > tolerance


@pytest.mark.parametrize("name", CASES)
def test_gradients_of_fp16(name):
    ms.set_context(mode=ms.PYNATIVE_MODE)
    case = CASES[name]
    cell, x = with_parameters(case.make()), drawn(*case.shape)
    slope = drawn(*cell(Tensor(x)).shape, seed=9)
    halves = [Tensor(each, ms.float16) for each in (slope, x)]
    rounded = [half.astype(ms.float32).asnumpy() for half in halves]
    for ours, theirs in zip(gradients(cell, True, *halves), exact(case, cell, *rounded, torch.float64), strict=True):
        assert np.abs(ours - theirs).max() <= FP16 * np.abs(theirs).max()


def turns(rows: int, length: int, width: int) -> list[np.ndarray]:
    return [drawn(rows, 1, length, width, seed=seed) for seed in (3, 4)]


MOVES = {
    "sum": (Add, [(3, 7, 5), (3, 7, 5)], 2, 0, (3, 7, 5)),
    "joined": (JoinHeads, [(2, 3, 7, 10)], 1, 0, (2, 7, 30)),
    "split": (lambda: SplitHeads(3, 10), [(2, 7, 30)], 1, 0, (2, 3, 7, 10)),
    "split, rotated": (lambda: SplitHeads(3, 10), [(2, 7, 30)], 1, 2, (2, 3, 7, 10)),
    "split, rotated alike": (lambda: SplitHeads(3, 10), [(2, 7, 30)], 1, 1, (2, 3, 7, 10)),
    "packed by heads": (lambda: SplitPacked(3, 10, True, True), [(2, 7, 90)], 1, 2, (2, 3, 7, 10)),
    "packed by parts": (lambda: SplitPacked(3, 10, False, True), [(2, 7, 90)], 1, 1, (2, 3, 7, 10)),
    "packed, not rotated": (lambda: SplitPacked(3, 10, True, False), [(2, 7, 90)], 1, 0, (2, 3, 7, 10)),
}


@pytest.mark.parametrize("mode", [ms.GRAPH_MODE, ms.PYNATIVE_MODE])
@pytest.mark.parametrize("dtype", [ms.float32, ms.float16])
@pytest.mark.parametrize("name", MOVES)
def test_what_moves_numbers_has_the_bits_of_plain_operators(mode, dtype, name):
    ms.set_context(mode=mode)
    make, shapes, first, rows_of_angles, shape = MOVES[name]
    given = [Tensor(drawn(*each, seed=seed), dtype) for seed, each in enumerate(shapes)]
    angles = [Tensor(each) for each in turns(rows_of_angles, 7, 10)] if rows_of_angles else []
    slope = Tensor(drawn(*shape, seed=9), dtype)
    plain, found = (gradients(make(), way, slope, *given, *angles, first=first) for way in (False, True))
    assert len(plain) == first and all(each.any() for each in plain)
    for ours, theirs in zip(found, plain, strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("rows, left, right", [(1, 1, 1), (7, 33, 5), (300, 70, 130), (513, 16, 600), (40, 600, 16)])
@pytest.mark.parametrize("dtype", [ms.float32, ms.float16])
def test_summed_products(dtype, rows, left, right):
    ms.set_context(mode=ms.PYNATIVE_MODE)
    x, y = (Tensor(drawn(rows, width, seed=seed), dtype) for seed, width in ((1, left), (2, right)))
    wide = [each.astype(ms.float32).asnumpy() for each in (x, y)]
    found = summed_products_operator()(x, y).astype(ms.float32).asnumpy()
    expected = wide[0].astype(np.float64).T @ wide[1].astype(np.float64)
    size = np.abs(wide[0]).T @ np.abs(wide[1])
    assert (np.abs(found - expected) / size).max() <= (4e-7 if dtype == ms.float32 else 6e-4)
    assert found.shape == (left, right)
