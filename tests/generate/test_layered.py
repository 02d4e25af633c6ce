"""Layer by layer through one compiled layer against graphs of the whole: answers of every family's shipped model."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest

from ms_impl import load
from ms_impl.data.batch import collate
from ms_impl.generate.decode import DecoderPool, padding_side
from ms_impl.generate.encoders import WholeEncoder
from ms_impl.generate.layer_frame import LayerFrame
from ms_impl.generate.prefill import LayeredPrefill, WholePrefill

ASSETS = Path(__file__).parents[2] / "assets"
MODELS = ("qwenvl_tiny_easyvqa", "qwen2_5_omni_tiny", "ovis2_5_tiny")
TOLERANCE = 2e-6  # rms, relative; measured below 5e-7: the sums of the last norm and the head are ordered otherwise


@cache
def loaded(name: str, dtype: str):
    return load(ASSETS / name, dtype)


def logits(model, template, whole: bool = False) -> np.ndarray:
    """After a prompt about an image, in two chunks or more: float32 [1, vocab]."""
    query = [{"image": str(ASSETS / "demo.png")}, {"text": "what color is the shape? " * 40}]
    sample = template.encode_turn(query, [], None, model.generation)
    batch = collate([sample], template, padding_side=padding_side(template))
    pool = DecoderPool(model)
    if whole:
        pool.frame = None
        names = {kind.encode for kind in template.kinds}
        pool.encoder.encoders = {name: WholeEncoder(model, name) for name in names}
    with pool.lend(1, batch["input_ids"].shape[1] + 1) as decoder:
        assert isinstance(decoder.through, WholePrefill if whole else LayeredPrefill)
        return decoder.prefill(batch, template.kinds)


def error(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.sqrt(np.square(found - expected).mean() / np.square(expected).mean()))


@pytest.mark.parametrize("name", [MODELS[0], *(pytest.param(name, marks=pytest.mark.slow) for name in MODELS[1:])])
def test_layers_in_one_frame_are_the_whole(name):
    """Weights in bf16, which the whole casts in its graph and the frame widens."""
    model, template = loaded(name, "bf16")
    found, expected = logits(model, template), logits(model, template, whole=True)
    assert error(found, expected) <= TOLERANCE


def test_control_a_frame_that_stays_with_one_layer_is_found_out(monkeypatch):
    model, template = loaded("qwenvl_tiny_easyvqa", "bf16")
    expected, hold = logits(model, template), LayerFrame.hold
    monkeypatch.setattr(LayerFrame, "hold", lambda frame, number, run: hold(frame, 0, run))
    assert error(logits(model, template), expected) > 1e-2
