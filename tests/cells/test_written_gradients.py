"""The gradients that attention and RMSNorm write out themselves, against PyTorch's differentiation of the same."""

import math

import mindspore as ms
import numpy as np
import pytest
import torch
from mindspore import Tensor, nn

from ms_impl.cells.attention import HIDDEN, ComposedAttention
from ms_impl.cells.norms import RMSNorm

TOLERANCE = {np.float32: 2e-6, np.float16: 5e-3}  # of the largest number
EPS = 1e-6


class Dotted(nn.Cell):
    """The sum of a cell's results, each times a slope: to be differentiated by all its inputs."""

    def __init__(self, cell: nn.Cell):
        super().__init__(auto_prefix=False)
        self.cell = cell

    def construct(self, slope, *given):
        return (self.cell(*given) * slope).sum()


class Norm(nn.Cell):
    """RMSNorm with its weight as an input."""

    def __init__(self, width: int):
        super().__init__()
        self.composed = RMSNorm(width, EPS).composed

    def construct(self, x, weight):
        return self.composed(x, weight)


@pytest.fixture(params=["graph", "pynative"])
def mode(request):
    ms.set_context(mode=ms.GRAPH_MODE if request.param == "graph" else ms.PYNATIVE_MODE)


def ours(cell: nn.Cell, slope: np.ndarray, given: list[np.ndarray], by: tuple[int, ...]) -> list[np.ndarray]:
    """The result and the gradients by these inputs."""
    tensors = [Tensor(array) for array in given]
    gradients = ms.grad(Dotted(cell), tuple(number + 1 for number in by))(Tensor(slope), *tensors)
    return [array.asnumpy() for array in (cell(*tensors), *gradients)]


def theirs(function, slope: np.ndarray, given: list[np.ndarray], by: tuple[int, ...]) -> list[np.ndarray]:
    """The same by PyTorch, in double precision."""
    tensors = [torch.tensor(array).double().requires_grad_(number in by) for number, array in enumerate(given)]
    out = function(*tensors)
    (out * torch.tensor(slope).double()).sum().backward()
    return [out.detach().numpy(), *(tensors[number].grad.numpy() for number in by)]


def differences(found: list[np.ndarray], expected: list[np.ndarray]) -> list[float]:
    """The largest difference of each, relative to the largest number expected."""
    return [float(np.abs(a - b).max() / np.abs(b).max()) for a, b in zip(found, expected, strict=True)]


def torch_norm(x, weight, frozen=False):
    factor = torch.rsqrt(x.square().mean(-1, keepdim=True) + EPS)
    return x * (factor.detach() if frozen else factor) * weight


def torch_attention(q, k, v, mask=None, frozen=False):
    scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
    scores = (scores if mask is None else scores + mask).exp()
    total = scores.sum(-1, keepdim=True)
    return scores / (total.detach() if frozen else total) @ v


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_norm(mode, dtype):
    x, slope, weight = (array.astype(dtype) for array in drawn((2, 5, 24), (2, 5, 24), (24,)))
    found = ours(Norm(24), slope, [x, weight], (0, 1))
    assert [array.dtype for array in found] == [dtype] * 3
    assert max(differences(found, theirs(torch_norm, slope, [x, weight], (0, 1)))) < TOLERANCE[dtype]


def test_norm_negative_control():
    """Without what comes through the root of the mean square, the gradient by x is far off, and nothing else is."""
    x, slope, weight = drawn((2, 5, 24), (2, 5, 24), (24,))
    wrong = theirs(lambda *given: torch_norm(*given, frozen=True), slope, [x, weight], (0, 1))
    out, by_x, by_weight = differences(ours(Norm(24), slope, [x, weight], (0, 1)), wrong)
    assert by_x > 1e-2 and max(out, by_weight) < TOLERANCE[np.float32]


@pytest.mark.parametrize("masked", [False, True])
def test_attention(mode, masked):
    given, slope = attention_inputs(masked)
    found = ours(ComposedAttention(), slope, given, (0, 1, 2))
    assert max(differences(found, theirs(torch_attention, slope, given, (0, 1, 2)))) < TOLERANCE[np.float32]


def test_attention_negative_control():
    """Without what comes through the sum of the softmax, the gradients by q and k are far off, and nothing else is."""
    given, slope = attention_inputs(masked=True)
    wrong = theirs(lambda *given: torch_attention(*given, frozen=True), slope, given, (0, 1, 2))
    out, by_q, by_k, by_v = differences(ours(ComposedAttention(), slope, given, (0, 1, 2)), wrong)
    assert min(by_q, by_k) > 1e-2 and max(out, by_v) < TOLERANCE[np.float32]


def attention_inputs(masked: bool) -> tuple[list[np.ndarray], np.ndarray]:
    """q [2, 3, 7, 8], k and v [2, 3, 9, 8] and perhaps a mask, and a slope."""
    q, k, v, slope = drawn((2, 3, 7, 8), (2, 3, 9, 8), (2, 3, 9, 8), (2, 3, 7, 8))
    hidden = np.broadcast_to(np.triu(np.full((7, 9), HIDDEN, np.float32), 3), (2, 3, 7, 9)).copy()
    return [q, k, v, hidden] if masked else [q, k, v], slope


def drawn(*shapes: tuple[int, ...]) -> list[np.ndarray]:
    rng = np.random.default_rng(5)
    return [rng.normal(0, 1, shape).astype(np.float32) for shape in shapes]
