"""Layer by layer through one compiled layer against graphs of the whole: answers of every family's shipped model."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest

from ms_impl import load
from ms_impl.data.batch import collate
from ms_impl.generate import decode
from ms_impl.generate.decode import DecoderPool, LayeredTokenStep, padding_side
from ms_impl.generate.encoders import WholeEncoder
from ms_impl.generate.layer_frame import LayerFrame
from ms_impl.generate.prefill import LayeredPrefill, WholePrefill
from ms_impl.kernels.decode_step import fused_token_step

ASSETS = Path(__file__).parents[2] / "assets"
MODELS = ("qwenvl_tiny_easyvqa", "qwen2_5_omni_tiny", "ovis2_5_tiny")
TOLERANCE = 2e-6  # rms, relative; measured below 5e-7: the sums of the last norm and the head are ordered otherwise


@cache
def loaded(name: str, dtype: str):
    return load(ASSETS / name, dtype)


@cache  # each is compiled
def pool_of(name: str, whole: bool) -> DecoderPool:
    model, template = loaded(name, "bf16")
    pool = DecoderPool(model)
    if whole:
        pool.frame = None
        pool.encoder.encoders = {kind.encode: WholeEncoder(model, kind.encode) for kind in template.kinds}
    return pool


def logits(name: str, whole: bool = False) -> np.ndarray:
    """After a prompt about an image, in two chunks or more: float32 [1, vocab]."""
    model, template = loaded(name, "bf16")
    query = [{"image": str(ASSETS / "demo.png")}, {"text": "what color is the shape? " * 40}]
    sample = template.encode_turn(query, [], None, model.generation)
    batch = collate([sample], template, padding_side=padding_side(template))
    with pool_of(name, whole).lend(1, batch["input_ids"].shape[1] + 1) as decoder:
        assert isinstance(decoder.through, WholePrefill if whole else LayeredPrefill)
        return decoder.prefill(batch, template.kinds)


def error(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.sqrt(np.square(found - expected).mean() / np.square(expected).mean()))


@pytest.mark.slow  # layers are held against the reference in tests/benchmarks/test_full_size.py
@pytest.mark.parametrize("name", MODELS)
def test_layers_in_one_frame_are_the_whole(name):
    """Weights in bf16, which the whole casts in its graph and the frame widens."""
    assert error(logits(name), logits(name, whole=True)) <= TOLERANCE


def test_control_a_frame_that_stays_with_one_layer_is_found_out(monkeypatch):
    expected, hold = logits(MODELS[0]), LayerFrame.hold
    monkeypatch.setattr(LayerFrame, "hold", lambda frame, number, run: hold(frame, 0, run))
    assert error(logits(MODELS[0]), expected) > 1e-2


def test_without_the_kernel_tokens_go_layer_by_layer_too(monkeypatch):
    """A graph of the whole would cast all weights at once."""
    model, _ = loaded(MODELS[0], "bf16")
    found = []
    for kernels in ("on", "off"):
        monkeypatch.setattr(decode, "fused_token_step", fused_token_step if kernels == "on" else lambda *_: None)
        with DecoderPool(model).lend(1, 70) as decoder:
            decoder.prefill({"input_ids": np.ones((1, 9), np.int32), "segment_ids": np.ones((1, 9), np.int32)})
            found.append(decoder.step(np.array([5])))
            assert isinstance(decoder.token_step, LayeredTokenStep) == (kernels == "off")
    assert error(*found) <= 1e-5
