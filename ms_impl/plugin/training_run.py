"""A training run in which every rank holds whole parameters: what it resumes from, and what it leaves behind."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import mindspore as ms
from mindspore import nn

from ms_impl.cli.training_plan import TrainingPlan
from ms_impl.data import trained_options
from ms_impl.data.chatml import CHATML
from ms_impl.errors import InputError
from ms_impl.io.checkpoint_assets import CHAT_FORMAT, collect
from ms_impl.plugin.checkpoint import (
    Target,
    TrainingCheckpoints,
    mark_completed,
    restore_step_cell,
    trained_parameters,
    unmark_completed,
)
from ms_impl.plugin.run_state import RunState
from ms_impl.train import checkpoints, resume_check
from ms_impl.train.ranks import is_first_rank, same_on_all_ranks, world_size


class AlreadyTrained(Exception):
    """The checkpoint to resume from is that of the last step."""


class TrainingRun:
    """What MindFormers' trainer does not do of a run: its checkpoints, and resuming from one."""

    def __init__(self, plan: TrainingPlan, state: RunState):
        self.root = state.output / "checkpoint"
        if world_size() > 1 and ms.get_auto_parallel_context("parallel_mode") == ms.ParallelMode.STAND_ALONE:
            raise InputError("parallel.parallel_mode: stand_alone would train each rank alone; set it to 0")
        self._plan = plan
        self._state = state
        self._assets = _assets(plan)
        self.resumed = _find(self.root, plan.resume)
        self.first_step = checkpoints.read_state(self.resumed)["step"] if self.resumed else 0
        state.saved_step = self.first_step
        if not same_on_all_ranks(self.first_step):
            raise InputError(f"{self.root}: not every rank finds the same checkpoint; all nodes must share output_dir")

    def check(self, schedule_steps: Sequence[int]) -> None:
        """Raise InputError unless the run has the data, the order and the lengths of the one it resumes.

        Raises AlreadyTrained if that one has no step left to do.
        """
        feed = self._state.feed
        plan, samples = feed.plan, feed.samples
        self._assets |= trained_options.as_file(samples.template)
        self._total_steps = plan.total_steps
        order, files = plan.digest(samples.digests), samples.mixture.digests
        self._identity = resume_check.describe(
            plan, order, files, feed.weighting, schedule_steps, samples.template.options, self._plan.kept
        )
        if self.resumed:
            changed = resume_check.check_same(self._identity, checkpoints.read_state(self.resumed), str(self.resumed))
            if is_first_rank():
                print(f"resuming from {self.resumed}: {self.first_step} of {self._total_steps} steps are done")
                print(*(f"changed since it was saved: {line}" for line in changed), sep="\n", flush=True)
        if is_first_rank():
            unmark_completed(self._state.output)
        if self.first_step == self._total_steps:
            raise AlreadyTrained

    def restore_step_cell(self, step_cell: nn.Cell) -> None:
        """Give optimizer and loss scaling the state of the checkpoint, if there is one."""
        if self.resumed:
            restore_step_cell(step_cell, self.resumed)

    def callback(self) -> TrainingCheckpoints:
        """The callback that saves this run."""
        weights = self._plan.files.weights
        return TrainingCheckpoints(Target(self.root, self._plan.saving, self._assets, self._identity, weights))

    def finish(self) -> None:
        """Leave the mark of a complete run, and say what it made. Raises InputError if a step was not made."""
        done, model = self._state.saved_step, self._state.model
        if done != self._total_steps:
            raise InputError(f"{self.root}: the run ended after step {done} of {self._total_steps}; it is not complete")
        if is_first_rank():
            mark_completed(self._state.output, self._total_steps)
            counts = f"; {trained_parameters(model)}" if model else ""
            folder = self.root / checkpoints.folder_name(self._total_steps)
            print(f"completed: {self._total_steps} steps; saved in {folder}{counts}", flush=True)


def _find(root: Path, asked: bool | str) -> Path | None:
    """The checkpoint to resume from: the newest whole one, the one of the name asked for, or none."""
    if asked is True:
        return checkpoints.newest(root)
    if not asked:
        if checkpoints.all_of(root):
            advice = "resume it (--resume_training True) or name another --output_dir"
            raise InputError(f"{root}: holds the checkpoints of an earlier run; {advice}")
        return None
    folder = Path(asked) if Path(asked).is_dir() else root / asked
    if not folder.is_dir():
        known = ", ".join(path.name for path in checkpoints.all_of(root)) or "none"
        raise InputError(f"resume_training: checkpoint {asked!r} not found in {root}, which has {known}")
    checkpoints.verify(folder)
    return folder


def _assets(plan: TrainingPlan) -> dict[str, bytes]:
    """What belongs to the trained model beside its weights, whose chat format is the one that training writes."""
    files = plan.files
    weights = Path(files.weights) if files.weights else None
    trained = CHATML if CHAT_FORMAT in files.family.generation else None  # a family with one format names none
    return collect(
        weights, files.config_file, plan.dtype, trained, files.vocabulary, saved_files=files.family.saved_files
    )
