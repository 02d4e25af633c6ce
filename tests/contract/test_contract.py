"""Both new families by the declared arrays alone, against what their original code produced.

The first tests of a family: a template that hands over these arrays has handed over enough.
"""

from pathlib import Path

import numpy as np
import pytest
from omni import Omni
from ovis import Ovis

GOLDEN = Path(__file__).parents[1] / "golden"
TOLERANCE = 1e-4  # of the largest number; the vectors are fp32, the contract fp64 (floor: 3e-5, see the goldens' noise)
SINGLE = ("text", "image", "two_images", "audio", "audio_image", "video", "videos_spg", "av", "av_split")


@pytest.fixture(scope="module")
def omni() -> Omni:
    return Omni(GOLDEN / "qwen2_5_omni_tiny")


@pytest.fixture(scope="module")
def ovis() -> Ovis:
    return Ovis(GOLDEN / "ovis2_5_tiny")


def difference(found: np.ndarray, golden: np.ndarray) -> float:
    """The largest, relative to the largest number."""
    assert found.shape == golden.shape
    return float(np.abs(found - golden).max() / max(1.0, np.abs(golden).max()))


@pytest.mark.parametrize("case", ["two_images", "video", "image2", "two_videos"])
def test_omni_vision(omni, case):
    found = omni.vision(*omni.patches(omni.told["visual"][case]["media"]))
    assert difference(found, omni.cases[f"visual.{case}.output"]) < TOLERANCE


def test_omni_units_may_come_in_any_order(omni):
    arrays = omni.patches(["image0", "image1"])
    units = np.random.default_rng(0).permutation(len(arrays[0]) // 4)
    order = (units[:, None] * 4 + np.arange(4)).ravel()
    found = omni.vision(*(array[order] for array in arrays))[np.argsort(units)]
    assert difference(found, omni.cases["visual.two_images.output"]) < TOLERANCE


def test_omni_patches_may_be_padded(omni):
    golden = omni.cases["visual.two_images.output"]
    assert difference(omni.vision(*omni.patches(["image0", "image1"], padding=52))[: len(golden)], golden) < TOLERANCE


def test_omni_without_windows_is_wrong(omni):
    patches, frames, _, places = omni.patches(["image0", "image1"])
    found = omni.vision(patches, frames, frames, places)
    assert difference(found, omni.cases["visual.two_images.output"]) > 100 * TOLERANCE


@pytest.mark.parametrize("frames", [3, 4, 199, 200, 201, 399])
def test_omni_audio_in_chunks(omni, frames):
    found = omni.audio(omni.cases[f"audio.{frames}.features"].astype(np.float64))
    assert difference(found, omni.cases[f"audio.{frames}.output"]) < TOLERANCE


def case_arrays(omni: Omni, case: str, row: int = 0) -> tuple[np.ndarray, ...]:
    names = ("input_ids", "position_ids", "attention_mask")
    ids, positions, mask = (omni.cases[f"logits.{case}.{name}"] for name in names)
    return ids[row], positions[:, row], mask[row]


@pytest.mark.parametrize("case", SINGLE)
def test_omni_logits(omni, case):
    found = omni.logits(*case_arrays(omni, case), omni.told["logits"][case])
    assert difference(found, omni.cases[f"logits.{case}.logits"][0]) < TOLERANCE


def test_omni_sections_in_another_order_are_wrong(omni):
    sections = omni.config["text_config"]["rope_scaling"]["mrope_section"][::-1]
    found = omni.logits(*case_arrays(omni, "image"), omni.told["logits"]["image"], sections)
    assert difference(found, omni.cases["logits.image.logits"][0]) > 100 * TOLERANCE


@pytest.mark.parametrize("case", ["image_text", "three", "av_image"])
def test_omni_packing_is_segments_and_positions(omni, case):
    told = omni.told["packing"][case]
    ids, positions = omni.cases[f"packing.{case}.input_ids"][0], omni.cases[f"packing.{case}.position_ids"][:, 0]
    segments = np.repeat(np.arange(1, len(told["lengths"]) + 1), told["lengths"])
    golden = omni.cases[f"packing.{case}.logits_packed"][0]
    assert difference(omni.logits(ids, positions[1:], segments, told), golden) < TOLERANCE
    assert difference(omni.logits(ids, positions[1:], np.ones_like(segments), told), golden) > 100 * TOLERANCE


def visuals(ovis: Ovis, *names: str) -> tuple[np.ndarray, np.ndarray]:
    parts = [[ovis.cases[f"pre.{name}.{array}"] for name in names] for array in ("pixel_values", "grid_thw")]
    return np.concatenate(parts[0]), np.concatenate(parts[1])


def test_ovis_vision(ovis):
    found = ovis.vision(*visuals(ovis, "image0", "image1"))
    assert difference(found, ovis.cases["vit.last_hidden"]) < TOLERANCE


def test_ovis_positions_are_taps(ovis):
    assert difference(ovis.positions(ovis.cases["vit.grid_thws"]), ovis.cases["vit.position_embedding"]) < TOLERANCE


def test_ovis_windows_are_segments(ovis):
    full = set(ovis.cases["window.fullatt_block_indexes"].tolist())
    arguments = ovis.cases["window.pixel_values"], ovis.cases["window.grid_thws"]
    assert difference(ovis.vision(*arguments, full), ovis.cases["window.last_hidden"]) < TOLERANCE
    assert difference(ovis.vision(*arguments), ovis.cases["window.last_hidden"]) > 100 * TOLERANCE


def test_ovis_visual_tokens(ovis):
    shares, embeddings = ovis.visual_tokens(*visuals(ovis, "image0", "image1"))
    assert difference(shares, ovis.cases["tok.probs"]) < TOLERANCE
    assert difference(embeddings, ovis.cases["tok.embeds"]) < TOLERANCE


@pytest.mark.parametrize(
    ("case", "names"),
    [
        ("text", ()),
        ("single", ("image0",)),
        ("two", ("image0", "image1")),
        ("two_adjacent", ("image1", "image0")),
        ("video", ("video",)),
    ],
)
def test_ovis_logits(ovis, case, names):
    ids = ovis.cases[f"{case}.input_ids"][0]
    found = ovis.logits(ids, visuals(ovis, *names) if names else None)
    assert difference(found, ovis.cases[f"{case}.logits"][0]) < TOLERANCE
