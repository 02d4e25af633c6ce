"""A training run in which every rank holds whole parameters: what it resumes from, and what it leaves behind."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import mindspore as ms
from mindformers.tools.register import MindFormerConfig
from mindformers.tools.utils import get_output_root_path
from mindspore import nn
from mindspore.dataset import Dataset

from ms_impl.data.chatml import CHATML
from ms_impl.errors import InputError
from ms_impl.io.checkpoint_assets import collect
from ms_impl.io.dtypes import BF16, FP16, FP32
from ms_impl.plugin.checkpoint import (
    Target,
    TrainingCheckpoints,
    mark_completed,
    restore_step_cell,
    unmark_completed,
)
from ms_impl.train import checkpoints, resume_check
from ms_impl.train.ranks import is_first_rank, same_on_all_ranks, world_size

logger = logging.getLogger(__name__)

_MONITOR = "CheckpointMonitor"
_EVERY, _KEEP = "save_checkpoint_steps", "keep_checkpoint_max"
_DEFAULTS = {_EVERY: 1000, _KEEP: 5}
_DTYPES = {"float32": FP32, "float16": FP16, "bfloat16": BF16}


class AlreadyTrained(Exception):
    """The checkpoint to resume from is that of the last step."""


class TrainingRun:
    """What MindFormers' trainer does not do of a run: its batches, its checkpoints, resuming from one.

    Takes over from the configuration: ``gradient_accumulation_steps``, which MindFormers 1.9.0 would set to 1
    (trainer/base_trainer.py:321), ``CheckpointMonitor`` among the callbacks, and ``continue_from``, the YAML's
    ``resume_training``.
    """

    def __init__(self, config: MindFormerConfig, weights: str | None):
        self.output = Path(get_output_root_path())
        self.root = self.output / "checkpoint"
        if world_size() > 1 and ms.get_auto_parallel_context("parallel_mode") == ms.ParallelMode.STAND_ALONE:
            raise InputError("parallel.parallel_mode: stand_alone would train each rank alone; set it to 0")
        self.weights = weights
        self._saving: TrainingCheckpoints | None = None
        self._settings = resume_check.settings_of(config)  # before they change under way
        self._monitor = _take_monitor(config)
        self._assets = _assets(config, weights)
        _divide_batch(config)
        self.resumed = _find(self.root, config.pop("continue_from", False))
        self.first_step = checkpoints.read_state(self.resumed)["step"] if self.resumed else 0
        if not same_on_all_ranks(self.first_step):
            raise InputError(f"{self.root}: not every rank finds the same checkpoint; all nodes must share output_dir")

    def check(self, dataset: Dataset, schedule_steps: Sequence[int]) -> None:
        """Raise InputError unless the run has the data, the order and the lengths of the one it resumes.

        Raises AlreadyTrained if that one has no step left to do.
        """
        self._total_steps = dataset.plan.total_steps
        plan, feed, dialogues = dataset.plan, dataset.feed, dataset.feed.dialogues
        order, files = plan.digest(dialogues.digests), dialogues.mixture.digests
        self.identity = resume_check.describe(
            plan, order, files, feed.weighting, schedule_steps, dialogues.template.options, self._settings
        )
        if self.resumed:
            changed = resume_check.check_same(self.identity, checkpoints.read_state(self.resumed), str(self.resumed))
            if is_first_rank():
                print(f"resuming from {self.resumed}: {self.first_step} of {self._total_steps} steps are done")
                print(*(f"changed since it was saved: {line}" for line in changed), sep="\n", flush=True)
        if is_first_rank():
            unmark_completed(self.output)
        if self.first_step == self._total_steps:
            raise AlreadyTrained

    def restore_step_cell(self, step_cell: nn.Cell) -> None:
        """Give optimizer and loss scaling the state of the checkpoint, if there is one."""
        if self.resumed:
            restore_step_cell(step_cell, self.resumed)

    def callback(self, model: nn.Cell) -> TrainingCheckpoints:
        """The callback that saves this run."""
        monitor = _DEFAULTS | self._monitor
        target = Target(self.root, monitor[_EVERY], monitor[_KEEP], self._assets, self.identity, self.weights or "")
        self._saving = TrainingCheckpoints(target, model, self.first_step, self._total_steps)
        return self._saving

    @property
    def stopped(self) -> bool:
        """Whether the run was asked to stop, and did, before its end."""
        return self._saving is not None and self._saving.stopped

    def finish(self) -> None:
        """Leave the mark of a complete run, and say what it made. Raises InputError if a step was not made."""
        done = self._saving.saved_step if self._saving else self.first_step
        if done != self._total_steps:
            raise InputError(f"{self.root}: the run ended after step {done} of {self._total_steps}; it is not complete")
        if is_first_rank():
            mark_completed(self.output, self._total_steps)
            counts = f"; {self._saving.parameters()}" if self._saving else ""
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


def _take_monitor(config: MindFormerConfig) -> dict[str, Any]:
    """The CheckpointMonitor of the YAML, taken out of it; keys of it that mean nothing here are told."""
    monitors = [callback for callback in config.callbacks or () if callback["type"] == _MONITOR]
    config.callbacks = [callback for callback in config.callbacks or () if callback["type"] != _MONITOR]
    monitor = dict(monitors[0]) if monitors else {}
    if ignored := sorted(monitor.keys() - _DEFAULTS.keys() - {"type"}):
        logger.info("%s: %s have no effect where ranks hold whole parameters", _MONITOR, ", ".join(ignored))
    for key in _DEFAULTS.keys() & monitor.keys():
        if type(monitor[key]) is not int or monitor[key] < 1:
            raise InputError(f"callbacks: {_MONITOR}.{key}: expected a whole number above 0, found {monitor[key]!r}")
    return monitor


def _divide_batch(config: MindFormerConfig) -> None:
    """A rank's batch has the rows of all micro-batches of a step; the step cell takes it apart."""
    runner, wrapper = config.runner_config, config.runner_wrapper
    wrapper.accumulation = runner.gradient_accumulation_steps or 1
    runner.gradient_accumulation_steps = 1
    config.model.model_config.rows = runner.batch_size
    runner.batch_size *= wrapper.accumulation


def _assets(config: MindFormerConfig, weights: str | None) -> dict[str, bytes]:
    """What belongs to the trained model beside its weights, whose chat format is the one that training writes."""
    section, vocabulary = config.model.model_config, Path(config.train_dataset.tokenizer.vocab_file)
    dtype = _DTYPES.get(section.param_init_type)
    return collect(weights and Path(weights), Path(section.config_file), dtype, CHATML, vocabulary)
