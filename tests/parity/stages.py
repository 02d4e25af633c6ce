"""What the parity suite compares, how it measures, and the table it prints."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

from ms_impl.data.images import load_pixels
from ms_impl.qwenvl.config import QwenVLConfig

ACTIVATION = 5e-5  # fp32: pixel values, features, hidden states, logits
PAST_SEQ_LENGTH = 1e-3  # fp32: positions past seq_length, where NTK and log-n scaling act
GRADIENT = 1e-4
FIRST_LOSS, FIFTH_LOSS = 1e-5, 1e-3
FP16 = 5e-3
# Vectors of which only the floors are known (--golden) may be so many times as far off as rounding alone.
TIMES_FLOOR = 2.0
LOSS_SCALE = 1024.0  # keeps small fp16 gradients from vanishing, as training does


def error(found, reference) -> float:
    """rms(found − reference) / rms(reference)."""
    found, reference = np.asarray(found, np.float64), np.asarray(reference, np.float64)
    if found.shape != reference.shape:
        raise ValueError(f"shapes {found.shape} and {reference.shape} differ")
    return float(np.sqrt(np.square(found - reference).mean() / np.square(reference).mean()))


@dataclass(frozen=True)
class Row:
    """One comparison of a stage."""

    error: float
    floor: float
    allowed: float

    @property
    def share(self) -> float:
        """Of what is allowed."""
        return self.error / self.allowed


class Table:
    """The row of every stage that came closest to what is allowed, printed when the tests are over.

    ``times_floor``: a row may be so many times as far off as its floor where that is more than its tolerance. 0 for the
    vectors of this repository, whose tolerances are known to hold.
    """

    def __init__(self, times_floor: float = 0.0) -> None:
        self.times_floor = times_floor
        self.worst: dict[tuple[str, str], Row] = {}

    def check(self, what: str, stage: str, found, reference, tolerance: float, floor: float = 0.0) -> None:
        """Record one stage of one comparison, and fail if its error is above what is allowed.

        ``floor`` is the error that rounding alone makes there; 0 where it was not measured.
        """
        row = Row(error(found, reference), floor, max(tolerance, self.times_floor * floor))
        known = self.worst.setdefault((what, stage), row)
        if row.share > known.share:
            self.worst[what, stage] = row
        assert row.error <= row.allowed, (
            f"{what}: {stage}: error {row.error:.2e} is above {row.allowed:.0e} (floor {floor:.1e})"
        )

    def lines(self) -> list[str]:
        """One line a stage, in the order of first use."""
        lines = [f"{'comparison':<34}{'stage':<38}{'error':>9}{'floor':>9}{'allowed':>9}"]
        for (what, stage), row in self.worst.items():
            floor = f"{row.floor:.1e}" if row.floor else "–"
            lines.append(f"{what:<34}{stage:<38}{row.error:>9.1e}{floor:>9}{row.allowed:>9.0e}")
        return lines


class Golden:
    """A folder of golden vectors; sizes come from its config.json and its keys."""

    def __init__(self, directory: Path):
        self.directory = directory
        self.config = QwenVLConfig.from_file(directory)
        self.cases = load_file(directory / "cases.safetensors")

    def __getitem__(self, key: str) -> np.ndarray:
        return self.cases[key]

    @property
    def ntk_lengths(self) -> list[int]:
        """The prompt lengths that the NTK cases were made for."""
        return sorted(int(n) for key in self.cases for n in re.findall(r"^ntk(\d+)\.input_ids$", key))

    def named(self, prefix: str) -> dict[str, np.ndarray]:
        """The cases under a prefix, by the rest of their names."""
        return {key.removeprefix(prefix): value for key, value in self.cases.items() if key.startswith(prefix)}

    def pixels(self) -> np.ndarray:
        """Pixel values [2, 3, S, S] of the two images."""
        size = self.config.visual.image_size
        return np.stack([load_pixels(self.directory / f"image{i}.png", size) for i in range(2)])

    def batch(self) -> dict[str, np.ndarray]:
        """The two-row batch with one image a row, right-padded: the arrays that the models take."""
        ids = self["batch.input_ids"]
        return {
            "input_ids": ids.astype(np.int32),
            "images": self.pixels()[:, None],
            "image_context_pos": np.stack([self.slots(row) for row in ids]),
            "segment_ids": self["batch.attention_mask"].astype(np.int32),
        }

    def two_images(self) -> dict[str, np.ndarray]:
        """One row that holds both images of the batch and is padded on the left; the original has no such case."""
        ids, mask = self["batch.input_ids"], self["batch.attention_mask"].astype(bool)
        row = np.concatenate([np.zeros(5, ids.dtype), ids[0][mask[0]], ids[1][mask[1]]])[None]
        segments = np.ones_like(row)
        segments[:, :5] = 0
        return {
            "input_ids": row.astype(np.int32),
            "images": self.pixels()[None],
            "image_context_pos": self.slots(row[0])[None],
            "segment_ids": segments.astype(np.int32),
        }

    def slots(self, row: np.ndarray) -> np.ndarray:
        """Columns of the image slots of one row: int32 [images, queries]."""
        starts = np.flatnonzero(row == self.config.image_start_id) + 1
        return (starts[:, None] + np.arange(self.config.num_queries)).astype(np.int32)
