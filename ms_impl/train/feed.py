"""The arrays of each training step of one rank."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ms_impl.data.batch import Batch, collate
from ms_impl.data.batch_plan import BatchPlan
from ms_impl.data.encoded_dataset import EncodedDataset
from ms_impl.data.packing import LossWeighting, pack
from ms_impl.data.template import Template
from ms_impl.errors import InputError

AFTER_MEDIA = ("labels", "segment_ids", "position_ids", "loss_weights", "seeds")  # the last columns of a step


def step_columns(template: Template | type[Template]) -> tuple[str, ...]:
    """What a step of training takes, in the order of the training model's ``construct``."""
    media = [spec.name for kind in template.kinds for spec in kind.all_arrays]
    return ("input_ids", *media, *AFTER_MEDIA)


@dataclass(frozen=True)
class Shard:
    """Which part of every global batch is whose: that of ``rank`` among ``world_size``."""

    rank: int = 0
    world_size: int = 1


class StepFeed:
    """The steps of a plan from ``first_step`` on, each as the arrays of ``step_columns``: for ``GeneratorDataset``.

    ``seeds`` int32 [B] hold a random number for each row of the stream, from which all of the row's randomness comes.

    MindSpore wraps what is raised here into a RuntimeError with a traceback for its message; ``error`` keeps it whole.
    """

    def __init__(
        self,
        plan: BatchPlan,
        samples: EncodedDataset,
        shard: Shard = Shard(),
        first_step: int = 0,
        weighting: LossWeighting = "token",
    ):
        self.plan = plan
        self.samples = samples
        self.first_step = first_step
        self.error: InputError | None = None
        self.columns = step_columns(samples.template)
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
        return tuple(batch[column] for column in self.columns)

    def batch(self, step: int) -> Batch:
        """The arrays of this rank's rows of a step (from 0), by column."""
        shard = self._shard
        rows = self.plan.rows(step, shard.rank, shard.world_size)
        template = self.samples.template
        chosen = ([self.samples[int(index)] for index in row] for row in rows)
        packed = [pack(row, self.weighting, template.position_axes) for row in chosen]
        batch = collate(packed, template, self.plan.sizes(step))
        seeds = [self._row_seed(number) for number in self.plan.row_numbers(step, shard.rank, shard.world_size)]
        return {**batch, "seeds": np.array(seeds, np.uint32).view(np.int32)}

    def _row_seed(self, number: int) -> int:
        return int(np.random.SeedSequence((self.plan.settings.seed, int(number))).generate_state(1)[0])
