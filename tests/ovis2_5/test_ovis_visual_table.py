"""Scores, shares and what they mix, in chunks with a gradient of their own, against torch's of the whole."""

import subprocess
import sys
import textwrap

import mindspore as ms
import numpy as np
import pytest
import torch
from mindspore import Parameter, Tensor, nn

from ms_impl.ovis2_5.visual_table import MixOverChunks

TOKENS, FEATURES, WORDS, WIDTH, EPS = 11, 12, 23, 7, 1e-5
TOLERANCE = 2e-6  # of the largest number; rounding alone: 3e-7
NAMES = ("x", "weight", "gain", "shift", "table")


class Mixed(nn.Cell):
    """The cell with parameters of its own, weighed to one number."""

    def __init__(self, arrays: dict, slope: np.ndarray, chunk: int):
        super().__init__()
        for name, array in arrays.items():
            setattr(self, name, Parameter(Tensor(array), name=name))
        self.slope = Tensor(slope)
        self.mix = MixOverChunks(EPS, chunk)

    def construct(self):
        return (self.mix(self.x, self.weight, self.gain, self.shift, self.table) * self.slope).sum()


@pytest.fixture(scope="module")
def drawn():
    rng = np.random.default_rng(0)
    shapes = [(TOKENS, FEATURES), (WORDS, FEATURES), (WORDS,), (WORDS,), (WORDS + 4, WIDTH)]
    arrays = {name: rng.normal(0, 1, shape).astype(np.float32) for name, shape in zip(NAMES, shapes)}
    return arrays, rng.normal(0, 1, (TOKENS, WIDTH)).astype(np.float32)


@pytest.fixture(scope="module")
def wanted(drawn):
    arrays, slope = drawn
    given = {name: torch.tensor(array, dtype=torch.float64, requires_grad=True) for name, array in arrays.items()}
    scores = torch.nn.functional.layer_norm(
        given["x"] @ given["weight"].T, (WORDS,), given["gain"], given["shift"], EPS
    )
    value = ((scores.softmax(-1) @ given["table"][:WORDS]) * torch.tensor(slope)).sum()
    value.backward()
    return value.item(), {name: array.grad.numpy() for name, array in given.items()}


def gradients(drawn, chunk: int, names=NAMES):
    cell = Mixed(*drawn, chunk)
    parameters = [parameter for parameter in cell.trainable_params() if parameter.name in names]
    value, found = ms.value_and_grad(cell, None, ms.ParameterTuple(parameters))()
    return float(value.asnumpy()), {p.name: g.asnumpy() for p, g in zip(parameters, found)}


@pytest.mark.parametrize("mode", [ms.GRAPH_MODE, ms.PYNATIVE_MODE], ids=["graph", "pynative"])
@pytest.mark.parametrize("chunk", [4, 16], ids=["several chunks", "one chunk"])
def test_value_and_gradients_equal_those_of_the_whole(drawn, wanted, mode, chunk):
    ms.set_context(mode=mode)
    try:
        value, found = gradients(drawn, chunk)
    finally:
        ms.set_context(mode=ms.GRAPH_MODE)
    assert value == pytest.approx(wanted[0], rel=1e-5)
    for name in NAMES:
        difference = np.abs(found[name] - wanted[1][name]).max() / np.abs(wanted[1][name]).max()
        assert difference < TOLERANCE, name
    assert not found["table"][WORDS:].any()


@pytest.mark.parametrize("name", ["x", "table"])
def test_one_gradient_alone(drawn, wanted, name):
    """As where the head, or the table, is frozen."""
    found = gradients(drawn, 4, (name,))[1][name]
    assert np.abs(found - wanted[1][name]).max() / np.abs(wanted[1][name]).max() < TOLERANCE


SCRIPT = """
    import resource, sys
    import mindspore as ms, numpy as np
    from mindspore import Parameter, Tensor, nn
    from ms_impl.ovis2_5.visual_table import MixOverChunks

    TOKENS, FEATURES, WORDS, WIDTH = 4096, 16, 16384, 16

    class Loss(nn.Cell):
        def __init__(self):
            super().__init__()
            rng = np.random.default_rng(0)
            def parameter(name, *shape):
                return Parameter(Tensor(rng.normal(0, 1, shape).astype(np.float32)), name=name)
            self.x, self.weight = parameter("x", TOKENS, FEATURES), parameter("weight", WORDS, FEATURES)
            self.gain, self.shift = parameter("gain", WORDS), parameter("shift", WORDS)
            self.table = parameter("table", WORDS + 4, WIDTH)
            self.mix = MixOverChunks(1e-5, int(sys.argv[1]))

        def construct(self):
            return self.mix(self.x, self.weight, self.gain, self.shift, self.table).sum()

    loss = Loss()
    _, gradients = ms.value_and_grad(loss, None, ms.ParameterTuple(loss.trainable_params()))()
    [gradient.asnumpy() for gradient in gradients]
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def peak_bytes(chunk: int) -> int:
    ran = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(SCRIPT), str(chunk)], capture_output=True, text=True, check=True
    )
    return int(ran.stdout.split()[-1]) * 1024


@pytest.mark.slow
def test_the_scores_of_all_tokens_are_never_held():
    """4,096 tokens over 16,384 words are 268 MB a copy; in chunks of 256 a copy is 17 MB."""
    copy = 4096 * 16384 * 4
    assert peak_bytes(4096) - peak_bytes(256) > 3 * copy
