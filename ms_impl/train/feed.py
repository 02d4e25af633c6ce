"""The arrays of each training step of one rank."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ms_impl.data.batch import Sample
from ms_impl.data.batch_plan import BatchPlan
from ms_impl.data.encoded_dataset import EncodedDataset
from ms_impl.data.packing import LossWeighting, pack
from ms_impl.errors import InputError

# What a step of training takes, in the order of the training model's ``construct``.
INPUT_COLUMNS = (
    "input_ids", "images", "image_context_pos", "labels", "segment_ids", "position_ids", "loss_weights", "seeds",
)  # fmt: skip

# Makes arrays of rows, given their length and image slots.
Collate = Callable[[Sequence[Sample], int, int], Mapping[str, np.ndarray]]


@dataclass(frozen=True)
class Shard:
    """Which part of every joint batch is whose: that of ``rank`` among ``world_size``."""

    rank: int = 0
    world_size: int = 1


class StepFeed:
    """The steps of a plan from ``first_step`` on, each as the arrays of ``INPUT_COLUMNS``: for ``GeneratorDataset``.

    ``seeds`` int32 [B] hold a random number for each row of the stream, from which all of the row's randomness comes.

    MindSpore wraps what is raised here into a RuntimeError with a traceback for its message; ``error`` keeps it whole.
    """

    def __init__(
        self,
        plan: BatchPlan,
        dialogues: EncodedDataset,
        collate: Collate,
        shard: Shard = Shard(),
        first_step: int = 0,
        weighting: LossWeighting = "token",
    ):
        self.plan = plan
        self.dialogues = dialogues
        self.first_step = first_step
        self.error: InputError | None = None
        self._collate = collate
        self._shard = shard
        self.weighting: LossWeighting = weighting

    def __len__(self) -> int:
        return max(self.plan.total_steps - self.first_step, 0)  # a run that has fewer steps than are done is refused

    def __getitem__(self, index: int) -> tuple[np.ndarray, ...]:
        try:
            batch = self.batch(self.first_step + index)
        except InputError as error:
            self.error = error
            raise
        return tuple(batch[column] for column in INPUT_COLUMNS)

    def batch(self, step: int) -> dict[str, np.ndarray]:
        """The arrays of this rank's rows of a step (from 0), by column."""
        shard = self._shard
        rows = self.plan.rows(step, shard.rank, shard.world_size)
        packed = [pack([self.dialogues[int(index)] for index in row], self.weighting) for row in rows]
        batch = self._collate(packed, self.plan.row_length(step), self.plan.image_slots)
        seeds = [self._row_seed(number) for number in self.plan.row_numbers(step, shard.rank, shard.world_size)]
        return {**batch, "seeds": np.array(seeds, np.uint32).view(np.int32)}

    def _row_seed(self, number: int) -> int:
        return int(np.random.SeedSequence((self.plan.settings.seed, int(number))).generate_state(1)[0])
