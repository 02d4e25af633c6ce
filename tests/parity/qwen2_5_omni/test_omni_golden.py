"""The golden vectors are what the pinned transformers computes here: the first link of the proof."""

from __future__ import annotations

import numpy as np
import pytest
from omni_reference import UNTRAINED, VARIANTS
from omni_stages import ACTIVATION, FIFTH_LOSS, GRADIENT, LOSS, STAGES, cases_of, check_logits, golden_logits

SIDES = "transformers / golden"


def test_transformers_is_the_pinned_version():
    import transformers

    assert transformers.__version__ == "4.57.1"


@pytest.mark.parametrize("stage", STAGES)
def test_positions_and_logits(vectors, original, omni_floors, table, stage):
    for case in cases_of(vectors, stage):
        if case.startswith("logits."):
            positions, deltas = original.positions(case)
            np.testing.assert_array_equal(positions, vectors[f"{case}.position_ids"])
            padding = (vectors[f"{case}.attention_mask"] == 0).sum(1, keepdims=True)
            np.testing.assert_array_equal(deltas - padding, vectors[f"{case}.rope_deltas"])
        found, wanted = original.logits(case), vectors[golden_logits(case)]
        for i, (row, floor) in enumerate(zip(vectors.case_rows(case), omni_floors.logits(case))):
            check_logits(table, SIDES, stage, found[i][row.real], wanted[i][row.real], ACTIVATION, floor)


def test_towers(vectors, original, omni_floors, table):
    for case, media in vectors.visual_cases.items():
        wanted, floor = vectors[f"visual.{case}.output"], omni_floors.vision(*media)
        table.check(SIDES, "vision tower", original.vision(media), wanted, ACTIVATION, floor)
    for length in vectors.audio_lengths:
        key, wanted = f"audio.{length}.features", vectors[f"audio.{length}.output"]
        found = original.audio([vectors[key]])
        table.check(SIDES, "audio tower", found, wanted, ACTIVATION, omni_floors.audio(key))


def test_greedy_with_the_cache(vectors, original, omni_floors, table):
    for case in vectors.told["greedy"]:
        wanted = np.atleast_2d(vectors[f"greedy.{case}.tokens"])
        tokens, logits = original.greedy(f"logits.{case}", wanted.shape[1])
        np.testing.assert_array_equal(tokens, wanted)
        if f"greedy.{case}.logits" in vectors.cases:
            stage, golden = "O20 cached decoding", vectors[f"greedy.{case}.logits"]
            floor = max(omni_floors.logits(f"logits.{case}"))
            check_logits(table, SIDES, stage, logits[:, 0], golden, ACTIVATION, floor)


def test_loss_and_every_gradient(vectors, original, omni_floors, table):
    told, (loss, gradients) = vectors.told["train"], original.gradients()
    floor, each = omni_floors.gradients()
    table.check(SIDES, "loss", loss, told["loss"], LOSS, floor)
    assert {name for name, norm in told["grad_norm"].items() if norm is None} == {UNTRAINED}
    assert set(gradients) == set(told["grad_norm"]) - {UNTRAINED}
    for name, gradient in gradients.items():
        norm = np.linalg.norm(gradient)
        table.check(SIDES, "gradient norms", norm, told["grad_norm"][name], GRADIENT, each[name])
        if (key := f"train.grad:{name}") in vectors.cases:
            table.check(SIDES, "gradients", gradient, vectors[key], GRADIENT, each[name])


@pytest.mark.parametrize("variant", VARIANTS)
def test_five_steps_of_adamw(vectors, original, omni_floors, table, variant):
    told = vectors.told["train"]["adamw"][variant]
    assert original.trained_numbers(variant) == told["trained"]
    losses, norms = original.five_losses(variant)
    floor = omni_floors.steps(variant)
    table.check(SIDES, "AdamW, first loss", losses[0], told["losses"][0], LOSS, floor[0])
    table.check(SIDES, "AdamW, fifth loss", losses[4], told["losses"][4], FIFTH_LOSS, floor[4])
    table.check(SIDES, "AdamW, norms", norms[0], told["grad_norms_before_clip"][0], GRADIENT, omni_floors.norm(variant))
