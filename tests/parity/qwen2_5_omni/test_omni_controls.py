"""What the thinker's parity suite must notice: each of these makes it fail."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from mindspore import Tensor
from omni_side import OmniSide
from omni_stages import ACTIVATION, check_logits
from stages import Table
from test_omni_model import placeholders

from ms_impl.qwen2_5_omni.audio import sinusoids


def assert_noticed(found: np.ndarray, golden: np.ndarray) -> None:
    with pytest.raises(AssertionError, match="control: control: error .* is above") as failed:
        check_logits(Table(), "control", "control", found, golden, ACTIVATION, 0.0)
    error = float(str(failed.value).split("error ")[1].split()[0])
    assert error > 100 * ACTIVATION


def test_audio_positions_that_go_on_over_chunks(vectors):
    """They restart in every chunk of 2 s."""
    side, audio = OmniSide(vectors, "pynative"), vectors.configuration.audio_config
    key, golden = "audio.399.features", vectors["audio.399.output"]
    vectors.told["media"].setdefault(key, {"features": key})
    row = placeholders(vectors, "audio", len(golden), audios=(key,))
    batch = vectors.batch([row], replace(vectors.sizes, rows=1, chunks=2))
    np.testing.assert_allclose(side.features(row, batch), golden, rtol=0, atol=1e-4)
    positions = sinusoids(audio.chunk_frames, audio.d_model)
    side.model.audio_tower.positions = Tensor(positions.reshape(2, -1, audio.d_model))
    assert_noticed(side.features(row, batch), golden)


def test_windows_off(vectors, graph):
    """Every block attends within frames."""
    (row,) = vectors.case_rows("logits.two_images")
    batch = vectors.batch([row])
    batch["patch_segments"][..., 1] = batch["patch_segments"][..., 0]
    assert_noticed(graph.logits([row], batch)[0], vectors["logits.two_images.logits"][0])


def test_frames_that_attend_to_one_another(vectors, graph):
    (row,) = vectors.case_rows("logits.video")
    batch = vectors.batch([row])
    batch["patch_segments"] = np.minimum(batch["patch_segments"], 1)
    assert_noticed(graph.logits([row], batch)[0], vectors["logits.video.logits"][0])


def test_places_of_patches_in_row_order(vectors, graph):
    """The 2 × 2 patches of a unit stand together, frame after frame."""
    (row,) = vectors.case_rows("logits.image")
    batch = vectors.batch([row])
    _, height, width = vectors.told["media"][row.images[0]]["grid_thw"]
    numbers = np.arange(height * width)
    batch["patch_places"][0, 0, : len(numbers)] = np.c_[numbers // width, numbers % width]
    assert_noticed(graph.logits([row], batch)[0], vectors["logits.image.logits"][0])


def test_sections_in_another_order(vectors):
    config, (row,) = vectors.configuration, vectors.case_rows("logits.image")
    text = config.text_config
    scaling = replace(text.rope_scaling, mrope_section=text.rope_scaling.mrope_section[::-1])
    config = replace(config, text_config=replace(text, rope_scaling=scaling))
    side = OmniSide(vectors, "pynative", config=config)
    assert_noticed(side.logits([row])[0], vectors["logits.image.logits"][0])


@pytest.mark.parametrize(
    ("case", "changes"),
    [("videos_spg", {"second_per_grid": [1.0, 1.0]}), ("av", {"use_audio_in_video": False})],
    ids=["second_per_grid fixed", "audio flag dropped"],
)
def test_positions_by_another_rule(vectors, original, graph, case, changes):
    """The original's own positions, with a wrong option: no error, and other logits."""
    (row,), golden = vectors.case_rows(f"logits.{case}"), vectors[f"logits.{case}.logits"][0]
    positions, _ = original.positions(f"logits.{case}", **changes)
    found = graph.logits([replace(row, positions=positions[:, 0])])[0]
    assert_noticed(found, golden)
    if case == "av":
        told = vectors.told["logits"]["av"]["max_diff_without_flag"]
        assert np.abs(found - golden).max() == pytest.approx(told, rel=1e-4)


def test_one_segment_for_a_packed_row(vectors, graph):
    (row,) = vectors.case_rows("packing.three")
    found = graph.logits([replace(row, segments=np.ones_like(row.segments))])[0]
    assert_noticed(found, vectors["packing.three.logits_packed"][0])


@pytest.mark.parametrize(
    ("case", "one", "other"),
    [
        ("image", "visual.blocks.0.mlp.gate_proj", "visual.blocks.0.mlp.up_proj"),
        ("image", "visual.blocks.1.attn.q", "visual.blocks.1.attn.k"),
        ("audio", "audio_tower.layers.0.self_attn.v_proj", "audio_tower.layers.0.self_attn.out_proj"),
        ("text", "model.layers.0.self_attn.k_proj", "model.layers.0.self_attn.v_proj"),
    ],
)
def test_exchanged_weights(vectors, graph, case, one, other):
    weights = {p.name: p.asnumpy().copy() for p in graph.model.get_parameters()}
    (row,) = vectors.case_rows(f"logits.{case}")
    exchanged = dict(weights)
    for kind in ("weight", "bias"):
        a, b = f"{one}.{kind}", f"{other}.{kind}"
        exchanged[a], exchanged[b] = weights[b], weights[a]
    try:
        graph.load(exchanged)
        assert_noticed(graph.logits([row])[0], vectors[f"logits.{case}.logits"][0])
    finally:
        graph.load(weights)
