"""The gradient of attention by its kernel: against PyTorch's of the same in fp64, beside the error of fp32's."""

from __future__ import annotations

import math

import mindspore as ms
import numpy as np
import pytest
import torch
from mindspore import Tensor, nn

from ms_impl.cells.attention import ComposedAttention
from ms_impl.cells.encoder_attention import LONGEST, EncoderAttention
from ms_impl.kernels.build import library
from ms_impl.kernels.operators import train_by_kernels

pytestmark = pytest.mark.skipif(
    library("attention_gradient") is None, reason="no C++ compiler here, or kernels are switched off"
)

FLOOR = 4  # times the error of fp32 itself
SEGMENTS = np.array([[1] * 150 + [2] * 120 + [0] * 33, [0] * 20 + [3] * 283], np.int32)
LENGTH = SEGMENTS.shape[1]


class Dotted(nn.Cell):
    """Σ attention · slope, to be differentiated."""

    def __init__(self, causal: bool):
        super().__init__()
        self.attention, self.causal = ComposedAttention(), causal

    def construct(self, q: Tensor, k: Tensor, v: Tensor, segments: Tensor, slope: Tensor) -> Tensor:
        heads, columns = q.shape[1], ms.ops.arange(q.shape[2]).astype(ms.int32)
        if self.causal:
            mask = self.attention.causal_mask(segments, columns, heads, q.dtype)
        else:
            mask = self.attention.segment_mask(segments, heads, q.dtype)
        return (self.attention(q, k, v, mask) * slope).sum()


def by_kernel(causal: bool) -> Dotted:
    cell = Dotted(causal)
    train_by_kernels(cell)
    assert cell.attention.by_kernel()
    return cell.set_train()


def gradients(cell: nn.Cell, given: list[np.ndarray], dtype: ms.Type = ms.float32) -> list[np.ndarray]:
    q, k, v, segments, slope = given
    floats = [Tensor(x, dtype) for x in (q, k, v, slope)]
    found = ms.grad(cell, (0, 1, 2))(*floats[:3], Tensor(segments), floats[3])
    return [each.astype(ms.float32).asnumpy() for each in found]


def drawn(heads: int, kv_heads: int, width: int) -> list[np.ndarray]:
    rng = np.random.default_rng(4)
    q, k, v, slope = (rng.normal(size=(2, n, LENGTH, width)) for n in (heads, kv_heads, kv_heads, heads))
    slope *= (SEGMENTS != 0)[:, None, :, None]  # nothing comes of what padding gets
    return [*(x.astype(np.float32) for x in (3 * q, k, v)), SEGMENTS, slope.astype(np.float32)]


def expected(given: list[np.ndarray], causal: bool, dtype: torch.dtype = torch.float64) -> list[np.ndarray]:
    segments, slope = given[3], torch.tensor(given[4]).to(dtype)
    q, k, v = (torch.tensor(x).to(dtype).requires_grad_() for x in given[:3])
    visible = (segments[:, :, None] == segments[:, None]) & (segments[:, :, None] != 0)
    visible &= np.tril(np.ones((LENGTH, LENGTH), bool)) if causal else True
    keys, values = (x.repeat_interleave(q.shape[1] // x.shape[1], 1) for x in (k, v))
    scores = q @ keys.transpose(-1, -2) / math.sqrt(q.shape[-1])
    weights = scores.masked_fill(~torch.tensor(visible)[:, None], -1e30).softmax(-1)
    (weights @ values * slope).sum().backward()
    return [x.grad.double().numpy() for x in (q, k, v)]


@pytest.mark.parametrize("mode", [ms.GRAPH_MODE, ms.PYNATIVE_MODE])
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("heads, kv_heads, width", [(4, 2, 20), (2, 2, 13), (3, 1, 64)])
def test_gradients(mode, causal, heads, kv_heads, width):
    ms.set_context(mode=mode)
    given = drawn(heads, kv_heads, width)
    exact, plain = expected(given, causal), expected(given, causal, torch.float32)
    changed = [*given[:3], np.where(SEGMENTS == 2, 1, SEGMENTS), given[4]]  # a control: two segments become one
    for found, otherwise, right, floor in zip(
        gradients(by_kernel(causal), given), gradients(by_kernel(causal), changed), exact, plain, strict=True
    ):
        tolerance = FLOOR * np.abs(floor - right).max()
        assert tolerance < 1e-4 * np.abs(right).max()
        assert np.abs(found - right).max() <= tolerance < np.abs(otherwise - right).max()
        hidden = np.broadcast_to((SEGMENTS == 0)[:, None], found.shape[:3])
        assert not found[hidden].any()


def test_gradients_of_fp16():
    ms.set_context(mode=ms.PYNATIVE_MODE)
    given = drawn(4, 2, 20)
    rounded = [Tensor(x, ms.float16).astype(ms.float32).asnumpy() if x.dtype == np.float32 else x for x in given]
    for found, right in zip(gradients(by_kernel(True), given, ms.float16), expected(rounded, True), strict=True):
        assert np.abs(found - right).max() <= 2e-3 * np.abs(right).max()


def test_a_row_alone_has_the_same_bits():
    ms.set_context(mode=ms.PYNATIVE_MODE)
    given = drawn(4, 2, 20)
    both, alone = (gradients(by_kernel(True), each) for each in (given, [x[1:] for x in given]))
    for every, one in zip(both, alone, strict=True):
        np.testing.assert_array_equal(one[0], every[1])


def test_long_rows_need_no_blocks_in_training():
    cell = EncoderAttention(2, 8).set_train()
    assert cell.takes_blocks(LONGEST + 1)
    train_by_kernels(cell)
    assert not cell.takes_blocks(LONGEST + 1)


def test_a_graph_that_is_cut_stays_as_it_is(monkeypatch):
    monkeypatch.setattr(ms, "get_auto_parallel_context", lambda name: ms.ParallelMode.SEMI_AUTO_PARALLEL)
    cell = Dotted(True).set_train()
    train_by_kernels(cell)
    assert not cell.attention.by_kernel()
