"""What the parity suite must notice: each of these makes it fail."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from mindspore_side import MindSporeSide
from stages import ACTIVATION, Table

from ms_impl.cells.bicubic import bicubic_matrix


def unpermuted_in_proj(weights: dict, config) -> dict:
    """The tower's in_proj rows as [q, k, v][heads] in place of [heads][q, k, v]."""
    vision = config.visual

    def permute(array: np.ndarray) -> np.ndarray:
        packed = array.reshape(vision.heads, 3, vision.head_dim, -1).swapaxes(0, 1)
        return packed.reshape(array.shape)

    return {name: permute(array) if ".attn.in_proj." in name else array for name, array in weights.items()}


def swapped_gate(weights: dict, config) -> dict:
    """w1 and w2 exchanged."""
    exchange = {"w1": "w2", "w2": "w1"}
    return {".".join(exchange.get(part, part) for part in name.split(".")): array for name, array in weights.items()}


def exchanged_resampler_kv(weights: dict, config) -> dict:
    """The resampler's key and value projections exchanged."""

    def exchange(array: np.ndarray) -> np.ndarray:
        q, k, v = np.split(array, 3)
        return np.concatenate([q, v, k])

    return {name: exchange(array) if "attn_pool.attn.in_proj" in name else array for name, array in weights.items()}


@pytest.mark.parametrize("alter", [unpermuted_in_proj, swapped_gate, exchanged_resampler_kv])
def test_altered_weights_are_noticed(golden, alter):
    side = MindSporeSide(golden.directory, "pynative", "fp32", partial(alter, config=golden.config))
    assert_noticed(golden, side)


def test_another_bicubic_is_noticed(golden, monkeypatch):
    monkeypatch.setattr("ms_impl.qwenvl.resampler.bicubic_matrix", partial(bicubic_matrix, a=-0.5))
    side = MindSporeSide(golden.directory, "pynative", "fp32")
    with pytest.raises(AssertionError, match="image features"):
        check_features(golden, side)


def assert_noticed(golden, side) -> None:
    """The logits of the golden batch, images and all, are not the original's any more."""
    tail = golden["batch.logits_tail"].shape[1]
    batch = golden.batch()
    real = batch["segment_ids"][:, -tail:] > 0
    logits = side.states(batch)[-1][:, -tail:]
    with pytest.raises(AssertionError, match="logits: error .* is above"):
        Table().check("control", "logits", logits[real], golden["batch.logits_tail"][real], ACTIVATION)


def check_features(golden, side) -> None:
    features, wanted = side.features(golden.pixels()), golden["vision.image_features"]
    Table().check("control", "image features", features, wanted, ACTIVATION)
