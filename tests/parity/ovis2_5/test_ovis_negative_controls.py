"""What the parity suite must notice: each of these makes it fail."""

from __future__ import annotations

from functools import partial

import mindspore as ms
import numpy as np
import pytest
from mindspore import nn, ops
from ovis_mindspore import OvisSide
from stages import ACTIVATION, Table

from ms_impl.cells.bicubic import bicubic_matrix
from ms_impl.cells.decoder import DecoderAttention
from ms_impl.ovis2_5 import patches


@pytest.fixture(scope="module")
def side(golden):
    yield OvisSide(golden.folder, "pynative", "fp32")
    ms.set_context(mode=ms.GRAPH_MODE)


def check(golden, side, case: str, batch) -> None:
    """Fails as the suite does where the logits of a case are not the original's."""
    real = batch["segment_ids"] > 0
    row = side.logits(batch)["logits"][real], golden[f"{case}.logits"][0], ACTIVATION
    Table().check("control", f"logits of {case}", *row)


def assert_noticed(golden, side, case: str, batch=None) -> None:
    with pytest.raises(AssertionError, match="error .* is above"):
        check(golden, side, case, golden.case(case) if batch is None else batch)


def test_nothing_altered_passes(golden, side):
    for case in ("two", "video"):
        check(golden, side, case, golden.case(case))


def test_another_bicubic_is_noticed(golden, side, monkeypatch):
    monkeypatch.setattr(patches, "bicubic_matrix", partial(bicubic_matrix, a=-0.5))
    patches.frame_taps.cache_clear()
    batch = golden.case("single")
    patches.frame_taps.cache_clear()
    assert_noticed(golden, side, "single", batch)


def test_norms_after_the_rotation_are_noticed(golden, side, monkeypatch):
    def norms_last(self, x, mask, cos, sin, q_scale=None, cache=None, columns=None):
        q = self.split_queries(self.q_proj(x), cos, sin)
        k = self.split_keys(self.k_proj(x), cos, sin)
        y = self.attention(self.q_norm(q), self.k_norm(k), self.split_keys(self.v_proj(x)), mask)
        return self.o_proj(self.join_heads(y))

    monkeypatch.setattr(DecoderAttention, "construct", norms_last)
    assert_noticed(golden, side, "text")


def test_indicators_shifted_by_one_are_noticed(golden, side):
    batch = golden.case("single")
    batch["indicator_ids"] = (batch["indicator_ids"] + 1) % 4
    assert_noticed(golden, side, "single", batch)


class HalfSoftmax(nn.Cell):
    """Shares rounded to fp16."""

    def construct(self, scores):
        return ops.softmax(scores.astype(ms.float16), -1).astype(ms.float32)


def test_softmax_in_fp16_is_noticed(golden, side, monkeypatch):
    mix = side.model.visual_tokenizer.mix_over_chunks
    exact = mix.softmax
    del mix.softmax
    mix.softmax = HalfSoftmax()
    try:
        assert_noticed(golden, side, "single")
    finally:
        del mix.softmax
        mix.softmax = exact


def test_rows_and_columns_exchanged_are_noticed(golden, side):
    for name, axis in (("patch_places", -1), ("patch_taps", -2)):
        batch = golden.case("single")
        batch[name] = np.flip(batch[name], axis).copy()
        assert_noticed(golden, side, "single", batch)


def test_frames_that_see_each_other_are_noticed(golden, side):
    batch = golden.case("video")
    frames = batch["patch_segments"][..., 0]
    assert frames.max() > 1
    merged = golden.in_one_row(batch)
    check(golden, side, "video", merged)
    merged["patch_segments"] = np.minimum(merged["patch_segments"], 1)
    assert_noticed(golden, side, "video", merged)


def test_units_in_another_place_are_noticed(golden, side):
    batch = golden.case("single")
    batch["patch_columns"] = np.roll(batch["patch_columns"], 1, -1)
    assert_noticed(golden, side, "single", batch)
