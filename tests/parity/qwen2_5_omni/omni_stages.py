"""What the thinker's parity suite compares and how closely.

Errors are rms(difference) / rms(reference), as everywhere in the parity tables. Seen on the vectors of this repository
in fp32: towers 2e-6, logits 3e-6, gradients 9e-6, losses 3e-7; transformers' own rounding is as large (the floors).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from omni_vectors import OmniVectors
from stages import Table

ACTIVATION = 1e-5
LARGEST = 1e-4  # of a single logit, absolute
GRADIENT = 5e-5
LOSS = 1e-6
FIFTH_LOSS = 1e-4
FP16 = 5e-3
FP16_GRADIENTS = 1e-2  # of all as one vector; torch's own are 5e-3 off there

STAGES = (
    "O4 text", "O5 image", "O6 several images", "O7 audio", "O8 video", "O9 audio in video",
    "O10 mixed batch, padded right", "O10 mixed batch, padded left", "O12 packing",
)  # fmt: skip


def stage_of(told: Mapping[str, Any]) -> str:
    """Which requirement a case of ``logits`` proves, by what is in it."""
    if told["padding_side"]:
        return f"O10 mixed batch, padded {told['padding_side']}"
    if told["use_audio_in_video"]:
        return "O9 audio in video"
    if told["videos"]:
        return "O8 video"
    if told["audios"]:
        return "O7 audio"
    return ("O4 text", "O5 image", "O6 several images")[min(len(told["images"]), 2)]


def cases_of(vectors: OmniVectors, stage: str) -> list[str]:
    """The cases of a folder that prove a requirement: ``logits.CASE`` or ``packing.CASE``. Skips where there are none."""
    if stage == "O12 packing":
        cases = [f"packing.{case}" for case in vectors.told["packing"]]
    else:
        cases = [f"logits.{case}" for case, told in vectors.logits_cases.items() if stage_of(told) == stage]
    return cases or pytest.skip(f"the vectors have no case of {stage}")


def golden_logits(case: str) -> str:
    """The key of a case's logits."""
    return f"{case}.logits_packed" if case.startswith("packing.") else f"{case}.logits"


def check_logits(
    table: Table, what: str, stage: str, found: np.ndarray, wanted: np.ndarray, tolerance: float, floor: float
) -> None:
    """A row of the table, and no logit far off; on other vectors the floor says what is far."""
    table.check(what, stage, found, wanted, tolerance, floor)
    if tolerance == ACTIVATION and not table.times_floor:
        assert np.abs(found - wanted).max() <= LARGEST


def together(parts: Sequence[np.ndarray]) -> np.ndarray:
    """Arrays of any shapes as one vector."""
    return np.concatenate([part.ravel() for part in parts])
