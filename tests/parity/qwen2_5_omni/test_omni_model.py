"""ms_impl's thinker computes what the golden vectors say and what transformers computes: O4 to O12."""

from __future__ import annotations

from dataclasses import replace

import mindspore as ms
import numpy as np
import pytest
from omni_side import OmniSide
from omni_stages import ACTIVATION, FP16, STAGES, cases_of, check_logits, golden_logits
from omni_vectors import Batch, OmniVectors, Row

IN_PYNATIVE = ("O5 image", "O9 audio in video", "O10 mixed batch, padded left", "O12 packing")


def placeholders(vectors: OmniVectors, kind: str, count: int, **media) -> Row:
    """A row of nothing but media: their features come out in the order of the original's."""
    ids = np.full(count, vectors.config[f"{kind}_token_index"], np.int32)
    return Row(ids, np.zeros((3, count), np.int32), np.ones(count, np.int32), **media)


def check_case(vectors, original, omni_floors, table, side: OmniSide, stage: str, case: str) -> None:
    rows, theirs = vectors.case_rows(case), original.logits(case)
    floors = omni_floors.logits(case)
    for i, (row, found) in enumerate(zip(rows, side.logits(rows))):
        golden = vectors[golden_logits(case)][i][row.real]
        wanted = theirs[i][row.real]
        check_logits(table, f"{side.name} / golden", stage, found[row.real], golden, ACTIVATION, floors[i])
        check_logits(table, f"{side.name} / transformers", stage, found[row.real], wanted, ACTIVATION, floors[i])


@pytest.mark.parametrize("stage", STAGES)
def test_logits(vectors, original, omni_floors, table, graph, stage):
    for case in cases_of(vectors, stage):
        check_case(vectors, original, omni_floors, table, graph, stage, case)


@pytest.mark.parametrize("stage", IN_PYNATIVE)
def test_logits_in_pynative(vectors, original, omni_floors, table, pynative, stage):
    check_case(vectors, original, omni_floors, table, pynative, stage, cases_of(vectors, stage)[-1])


def test_vision_tower(vectors, original, omni_floors, table, side):
    cases = list(vectors.visual_cases.items())
    for case, media in cases if side.mode == ms.GRAPH_MODE else cases[:1]:
        golden, floor = vectors[f"visual.{case}.output"], omni_floors.vision(*media)
        found = side.features(placeholders(vectors, "image", len(golden), images=media))
        table.check(f"{side.name} / golden", "vision tower", found, golden, ACTIVATION, floor)
        theirs = original.vision(media)
        table.check(f"{side.name} / transformers", "vision tower", found, theirs, ACTIVATION, floor)


def audio_row(vectors: OmniVectors, *keys: str) -> tuple[Row, Batch, int]:
    """Sounds by the keys of their mel frames, as a batch of one row; how many tokens they take."""
    known = vectors.told["media"]
    for key in keys:
        known.setdefault(key, {"features": key})
    count = sum(vectors.tokens(key) for key in keys)
    row = placeholders(vectors, "audio", count, audios=keys)
    return row, vectors.batch([row]), count


def test_audio_tower_at_every_edge_of_a_chunk(vectors, original, omni_floors, table, side):
    """O7"""
    for length in vectors.audio_lengths if side.mode == ms.GRAPH_MODE else vectors.audio_lengths[-1:]:
        key, golden = f"audio.{length}.features", vectors[f"audio.{length}.output"]
        row, batch, count = audio_row(vectors, key)
        assert count == vectors.told["audio"]["lengths"][str(length)][1] == len(golden)
        found, floor = side.features(row, batch), omni_floors.audio(key)
        table.check(f"{side.name} / golden", "audio tower", found, golden, ACTIVATION, floor)
        theirs = original.audio([vectors[key]])
        table.check(f"{side.name} / transformers", "audio tower", found, theirs, ACTIVATION, floor)


def test_several_sounds_at_once_are_what_each_is_alone(vectors, graph, omni_floors, table):
    """The golden call of four sounds, joined; here a row a sound, and the original's order. In one batch bit for bit."""
    lengths = vectors.told["audio"]["batch"]["lengths"]
    found = [graph.features(*audio_row(vectors, f"audio.{length}.features")[:2]) for length in lengths]
    golden = vectors["audio.batch.output"]
    floor = max(omni_floors.audio(f"audio.{length}.features") for length in lengths)
    table.check(f"{graph.name} / golden", "audio tower, batch", np.concatenate(found), golden, ACTIVATION, floor)
    rows = [audio_row(vectors, f"audio.{length}.features")[0] for length in lengths]
    assert vectors.sizes.rows > 1
    for start in range(0, len(rows), vectors.sizes.rows):
        company = rows[start : start + vectors.sizes.rows]
        for row, together in zip(company, graph.run(vectors.batch(company))[1]):
            np.testing.assert_array_equal(together, graph.run(vectors.batch([row]))[1][0])


def test_units_may_come_in_any_order(vectors, graph, omni_floors, table):
    """Patches are told apart by segments and places alone."""
    case, media = next(iter(vectors.visual_cases.items()))
    golden = vectors[f"visual.{case}.output"]
    row = placeholders(vectors, "image", len(golden), images=media)
    batch = vectors.batch([row])
    units = np.random.default_rng(0).permutation(batch["patch_columns"].shape[-1])
    patches = (units[:, None] * 4 + np.arange(4)).ravel()
    for name in ("patches", "patch_segments", "patch_places"):
        batch[name] = batch[name][:, :, patches]
    batch["patch_columns"] = batch["patch_columns"][:, :, units]
    found, floor = graph.features(row, batch), omni_floors.vision(*media)
    table.check(f"{graph.name} / golden", "vision tower, shuffled", found, golden, ACTIVATION, floor)


def test_packed_rows_are_their_dialogues_alone(vectors, graph, omni_floors, table):
    """O12, also padding-free: the rows of a batch end to end are one packed row."""
    for case in cases_of(vectors, "O12 packing"):
        check_packed_row(vectors, graph, omni_floors, table, case)


def check_packed_row(vectors, graph, omni_floors, table, case: str) -> None:
    (row,) = vectors.case_rows(case)
    packed, parts, start = graph.logits([row])[0], [], 0
    media = {kind: list(getattr(row, kind)) for kind in ("images", "videos", "audios")}
    for length in vectors.told["packing"][case.removeprefix("packing.")]["lengths"]:
        ids = row.ids[start : start + length]
        taken = {kind: taken_by(vectors, ids, kind, names) for kind, names in media.items()}
        positions = row.positions[:, start : start + length]
        parts.append(Row(ids, positions, np.ones_like(ids), **taken))
        start += length
    alone = np.concatenate([graph.logits([part])[0] for part in parts])
    check_logits(
        table, f"{graph.name} / alone", "O12 packed row", packed, alone, ACTIVATION, omni_floors.logits(case)[0]
    )


def taken_by(vectors: OmniVectors, ids: np.ndarray, kind: str, left: list[str]) -> list[str]:
    """The media, in order of use, that the placeholders of some ids ask for; they are taken off ``left``."""
    places, taken = int((ids == vectors.config[f"{kind[:-1]}_token_index"]).sum()), []
    while places:
        taken.append(left.pop(0))
        places -= vectors.tokens(taken[-1])
    return taken


def test_a_row_of_a_batch_has_the_bits_of_the_row_alone(vectors, graph):
    """Sound included: other rows, other places in the batch and the same row without company."""
    for case in cases_of(vectors, "O10 mixed batch, padded left"):
        rows = vectors.case_rows(case)
        together = graph.logits(rows)
        for i, row in enumerate(rows):
            np.testing.assert_array_equal(graph.logits([row])[0], together[i])
        for found, wanted in zip(graph.logits(rows[::-1]), together[::-1]):
            np.testing.assert_array_equal(found, wanted)


def test_a_batch_with_no_media_is_the_text_alone(vectors, pynative, table):
    """O11: absent kinds as None, and as arrays whose columns are all T, give the same logits."""
    (row,) = vectors.case_rows(cases_of(vectors, "O4 text")[0])
    batch, found = vectors.batch([row]), pynative.logits([row])[0]
    text = {name: batch[name][:1, ..., : len(row.ids)] for name in ("input_ids", "segment_ids", "position_ids")}
    without = pynative.call(**text)[0]
    check_logits(table, f"{pynative.name} / no media", "O11 text", found, without, ACTIVATION, 0.0)


def test_positions_left_out_are_the_columns(vectors, pynative):
    (row,) = vectors.case_rows(cases_of(vectors, "O4 text")[0])
    columns = np.tile(np.arange(len(row.ids)), (3, 1))
    given = pynative.logits([replace(row, positions=columns)])[0]
    found = pynative.call(input_ids=row.ids[None].astype(np.int32))[0]
    np.testing.assert_allclose(found, given, rtol=0, atol=2e-5)


@pytest.fixture(scope="module")
def half(vectors) -> OmniSide:
    return OmniSide(vectors, "graph", "fp16")


@pytest.mark.parametrize("stage", [stage for stage in STAGES if "left" not in stage and "O12" not in stage])
def test_logits_in_fp16(vectors, original, omni_floors, table, half, stage):
    for case in cases_of(vectors, stage):
        rows, floors = vectors.case_rows(case), omni_floors.logits(case, half=True)
        for i, (row, found) in enumerate(zip(rows, half.logits(rows))):
            golden = vectors[golden_logits(case)][i][row.real]
            table.check(f"{half.name} / golden", stage, found[row.real], golden, FP16, floors[i])
