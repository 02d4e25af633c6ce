"""Attention within segments a block of queries at a time, against that of whole rows."""

import subprocess
import sys
import textwrap

import mindspore as ms
import numpy as np
import pytest
from mindspore import Parameter, Tensor, nn

from ms_impl.cells import encoder_attention
from ms_impl.cells.attention import ComposedAttention, same_segment
from ms_impl.cells.block_attention import BlockAttention
from ms_impl.cells.encoder_attention import EncoderAttention

BATCH, HEADS, LENGTH, DIM = 2, 3, 22, 8
TOLERANCE = {ms.float32: 1e-6, ms.float16: 2e-3}  # of the largest number; rounding alone: 2e-7 and 5e-4


class Weighed(nn.Cell):
    """Attention with parameters for q, k and v, weighed to one number; also what it gives."""

    def __init__(self, arrays: dict, segments: np.ndarray, slope: np.ndarray, dtype: ms.Type, block: int | None):
        super().__init__()
        for name, array in arrays.items():
            setattr(self, name, Parameter(Tensor(array), name=name))
        self.segments, self.slope, self.dtype = Tensor(segments), Tensor(slope), dtype
        self.blocks = None if block is None else BlockAttention(block)
        self.whole = ComposedAttention()

    def construct(self):
        q, k, v = self.q.astype(self.dtype), self.k.astype(self.dtype), self.v.astype(self.dtype)
        if self.blocks is None:
            found = self.whole(q, k, v, self.whole.mask(same_segment(self.segments), HEADS, self.dtype))
        else:
            found = self.blocks(q, k, v, self.segments)
        return (found.astype(ms.float32) * self.slope).sum(), found


@pytest.fixture(scope="module")
def drawn():
    rng = np.random.default_rng(0)
    shape = (BATCH, HEADS, LENGTH, DIM)
    arrays = {name: rng.normal(0, 1, shape).astype(np.float32) for name in "qkv"}
    segments = np.array([[1] * 9 + [2] * 13, [3] * 5 + [1] * 10 + [0] * 7], np.int32)
    slope = rng.normal(0, 1, shape).astype(np.float32) * (segments > 0)[:, None, :, None]  # padding is nobody's
    return arrays, segments, slope


def outcome(drawn, dtype, block) -> dict[str, np.ndarray]:
    cell = Weighed(*drawn, dtype, block)
    parameters = ms.ParameterTuple(cell.trainable_params())
    (_, found), gradients = ms.value_and_grad(cell, None, parameters, has_aux=True)()
    real = (drawn[1] > 0)[:, None, :, None]
    return {"out": found.asnumpy() * real, **{p.name: g.asnumpy() for p, g in zip(parameters, gradients)}}


@pytest.mark.slow_for("fp16-graph")
@pytest.mark.parametrize("mode", [ms.GRAPH_MODE, ms.PYNATIVE_MODE], ids=["graph", "pynative"])
@pytest.mark.parametrize("dtype", [ms.float32, ms.float16], ids=["fp32", "fp16"])
def test_blocks_are_the_whole(drawn, mode, dtype):
    ms.set_context(mode=mode)
    try:
        wanted = outcome(drawn, dtype, None)
        for block in (4, 22, 64):
            found = outcome(drawn, dtype, block)
            for name, array in wanted.items():
                difference = np.abs(found[name].astype(np.float64) - array).max() / np.abs(array).max()
                assert difference < TOLERANCE[dtype], (block, name)
    finally:
        ms.set_context(mode=ms.GRAPH_MODE)


def test_segments_count(drawn):
    arrays, segments, slope = drawn
    other = outcome((arrays, np.minimum(segments, 1), slope), ms.float32, 4)["out"]
    assert np.abs(other - outcome(drawn, ms.float32, 4)["out"]).max() > 0.1


def test_long_rows_of_an_encoder_go_by_blocks(monkeypatch):
    rng = np.random.default_rng(0)
    q, k, v = (Tensor(rng.normal(0, 1, (1, LENGTH, HEADS * DIM)).astype(np.float32)) for _ in range(3))
    segments = Tensor(np.array([[1] * 9 + [2] * 13], np.int32))
    cell = EncoderAttention(HEADS, DIM, rotary=False)
    whole = cell(q, k, v, cell.within(segments, ms.float32)).asnumpy()
    monkeypatch.setattr(encoder_attention, "LONGEST", 16)
    mask = cell.within(segments, ms.float32)
    assert mask is segments
    np.testing.assert_allclose(cell(q, k, v, mask).asnumpy(), whole, rtol=0, atol=1e-6)


SCRIPT = """
    import resource, sys
    import mindspore as ms, numpy as np
    from mindspore import Parameter, Tensor, nn
    from ms_impl.cells import encoder_attention
    from ms_impl.cells.encoder_attention import EncoderAttention

    LENGTH, HEADS, DIM = 4096, 8, 8
    encoder_attention.LONGEST = int(sys.argv[1])

    class Loss(nn.Cell):
        def __init__(self):
            super().__init__()
            rng = np.random.default_rng(0)
            self.x = Parameter(Tensor(rng.normal(0, 1, (1, LENGTH, HEADS * DIM)).astype(np.float32)), name="x")
            self.segments = Tensor(np.ones((1, LENGTH), np.int32))
            self.attention = EncoderAttention(HEADS, DIM, rotary=False)

        def construct(self):
            return self.attention(self.x, self.x, self.x, self.attention.within(self.segments, ms.float32)).sum()

    loss = Loss()
    _, (gradient,) = ms.value_and_grad(loss, None, ms.ParameterTuple(loss.trainable_params()))()
    gradient.asnumpy()
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def peak_bytes(longest: int) -> int:
    command = [sys.executable, "-c", textwrap.dedent(SCRIPT), str(longest)]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1]) * 1024


@pytest.mark.slow
def test_the_scores_of_a_long_row_are_never_held():
    """4,096 patches in 8 heads: 537 MB a copy of the scores, 34 MB of a block's."""
    copy = 4096 * 4096 * 8 * 4
    assert peak_bytes(8192) - peak_bytes(1024) > 2 * copy
