"""What the thinker's parity suite compares and how closely.

Errors are rms(difference) / rms(reference), as everywhere in the parity tables. Seen on the vectors of this repository
in fp32: towers 2e-6, logits 3e-6, gradients 9e-6, losses 3e-7; transformers' own rounding is as large (the floors).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from stages import Table

ACTIVATION = 1e-5
LARGEST = 1e-4  # of a single logit, absolute
GRADIENT = 5e-5
LOSS = 1e-6
FIFTH_LOSS = 1e-4
FP16 = 5e-3
FP16_GRADIENTS = 1e-2  # of all as one vector; torch's own are 5e-3 off there

# The cases of ``logits.`` and ``packing.`` by the number of the requirement that they prove.
STAGES = {
    "O4 text": ("logits.text",),
    "O5 image": ("logits.image",),
    "O6 several images": ("logits.two_images",),
    "O7 audio": ("logits.audio", "logits.audio_image"),
    "O8 video": ("logits.video", "logits.videos_spg"),
    "O9 audio in video": ("logits.av", "logits.av_split"),
    "O10 mixed batch, padded right": ("logits.batch_right",),
    "O10 mixed batch, padded left": ("logits.batch_left", "logits.av_batch_left"),
    "O12 packing": ("packing.image_text", "packing.three", "packing.av_image"),
}
AUDIO_LENGTHS = (3, 4, 199, 200, 201, 399)


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
