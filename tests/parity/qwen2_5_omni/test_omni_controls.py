"""What the thinker's parity suite must notice: each of these makes it fail."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from mindspore import Tensor
from omni_side import OmniSide
from omni_stages import ACTIVATION, cases_of, check_logits, golden_logits
from omni_vectors import OmniVectors, Row
from stages import Table
from test_omni_model import placeholders

from ms_impl.qwen2_5_omni.audio import sinusoids


def assert_noticed(found: np.ndarray, golden: np.ndarray) -> None:
    with pytest.raises(AssertionError, match="control: control: error .* is above") as failed:
        check_logits(Table(), "control", "control", found, golden, ACTIVATION, 0.0)
    error = float(str(failed.value).split("error ")[1].split()[0])
    assert error > 100 * ACTIVATION


def case_of(vectors: OmniVectors, stage: str) -> tuple[Row, np.ndarray]:
    """The first case of a stage, one row, and its logits."""
    case = cases_of(vectors, stage)[0]
    (row,) = vectors.case_rows(case)
    return row, vectors[golden_logits(case)][0]


def test_audio_positions_that_go_on_over_chunks(vectors):
    """They restart in every chunk of 2 s."""
    side, audio = OmniSide(vectors, "pynative"), vectors.configuration.audio_config
    length = vectors.audio_lengths[-1]
    key, golden = f"audio.{length}.features", vectors[f"audio.{length}.output"]
    vectors.told["media"].setdefault(key, {"features": key})
    row = placeholders(vectors, "audio", len(golden), audios=(key,))
    batch = vectors.batch([row], replace(vectors.sizes, rows=1, chunks=2))
    np.testing.assert_allclose(side.features(row, batch), golden, rtol=0, atol=1e-4)
    positions = sinusoids(audio.chunk_frames, audio.d_model)
    side.model.audio_tower.positions = Tensor(positions.reshape(2, -1, audio.d_model))
    assert_noticed(side.features(row, batch), golden)


def test_windows_off(vectors, graph):
    """Every block attends within frames."""
    row, golden = case_of(vectors, "O6 several images")
    batch = vectors.batch([row])
    batch["patch_segments"][..., 1] = batch["patch_segments"][..., 0]
    assert_noticed(graph.logits([row], batch)[0], golden)


def test_frames_that_attend_to_one_another(vectors, graph):
    row, golden = case_of(vectors, "O8 video")
    batch = vectors.batch([row])
    batch["patch_segments"] = np.minimum(batch["patch_segments"], 1)
    assert_noticed(graph.logits([row], batch)[0], golden)


def test_places_of_patches_in_row_order(vectors, graph):
    """The 2 × 2 patches of a unit stand together, frame after frame."""
    row, golden = case_of(vectors, "O5 image")
    batch = vectors.batch([row])
    _, height, width = vectors.told["media"][row.images[0]]["grid_thw"]
    numbers = np.arange(height * width)
    batch["patch_places"][0, 0, : len(numbers)] = np.c_[numbers // width, numbers % width]
    assert_noticed(graph.logits([row], batch)[0], golden)


def test_sections_in_another_order(vectors):
    row, golden = case_of(vectors, "O5 image")
    config, text = vectors.configuration, vectors.configuration.text_config
    scaling = replace(text.rope_scaling, mrope_section=text.rope_scaling.mrope_section[::-1])
    config = replace(config, text_config=replace(text, rope_scaling=scaling))
    side = OmniSide(vectors, "pynative", config=config)
    assert_noticed(side.logits([row])[0], golden)


def test_the_same_second_per_grid_for_all_videos(vectors, original, graph):
    """The original's own positions: no error, and other logits."""
    case = next(
        case for case in cases_of(vectors, "O8 video")
        if len(set(vectors.logits_cases[case.removeprefix("logits.")]["second_per_grid"])) > 1
    )  # fmt: skip
    told = vectors.logits_cases[case.removeprefix("logits.")]
    found = with_positions(
        vectors, original, graph, case, second_per_grid=told["second_per_grid"][:1] * len(told["videos"])
    )
    assert_noticed(found, vectors[f"{case}.logits"][0])


def test_the_audio_flag_dropped(vectors, original, graph):
    for case, told in vectors.logits_cases.items():
        if "max_diff_without_flag" in told:
            found = with_positions(vectors, original, graph, f"logits.{case}", use_audio_in_video=False)
            golden = vectors[f"logits.{case}.logits"][0]
            assert_noticed(found, golden)
            assert np.abs(found - golden).max() == pytest.approx(told["max_diff_without_flag"], rel=1e-4)


def with_positions(vectors, original, graph, case: str, **changes) -> np.ndarray:
    """The logits of a case with the positions that the original finds with changed options."""
    (row,) = vectors.case_rows(case)
    positions, _ = original.positions(case, **changes)
    return graph.logits([replace(row, positions=positions[:, 0])])[0]


def test_one_segment_for_a_packed_row(vectors, graph):
    row, golden = case_of(vectors, "O12 packing")
    found = graph.logits([replace(row, segments=np.ones_like(row.segments))])[0]
    assert_noticed(found, golden)


@pytest.mark.parametrize(
    ("stage", "one", "other"),
    [
        ("O5 image", "visual.blocks.0.mlp.gate_proj", "visual.blocks.0.mlp.up_proj"),
        ("O5 image", "visual.blocks.1.attn.q", "visual.blocks.1.attn.k"),
        ("O7 audio", "audio_tower.layers.0.self_attn.v_proj", "audio_tower.layers.0.self_attn.out_proj"),
        ("O4 text", "model.layers.0.self_attn.k_proj", "model.layers.0.self_attn.v_proj"),
    ],
)
def test_exchanged_weights(vectors, graph, stage, one, other):
    weights = {p.name: p.asnumpy().copy() for p in graph.model.get_parameters()}
    row, golden = case_of(vectors, stage)
    exchanged = dict(weights)
    for kind in ("weight", "bias"):
        a, b = f"{one}.{kind}", f"{other}.{kind}"
        exchanged[a], exchanged[b] = weights[b], weights[a]
    try:
        graph.load(exchanged)
        assert_noticed(graph.logits([row])[0], golden)
    finally:
        graph.load(weights)
