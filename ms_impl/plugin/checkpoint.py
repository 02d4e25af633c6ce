"""Saving a training run so that it goes on after any interruption as if there had been none.

This is for runs in which every rank holds whole parameters. In semi-automatic parallelism MindFormers' own
CheckpointMonitor cuts and saves them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn

from ms_impl.cli.training_plan import Saving
from ms_impl.data.trained_options import NAME as TEMPLATE_OPTIONS
from ms_impl.errors import InputError
from ms_impl.io import safetensors_files
from ms_impl.io.atomic_write import atomic_write
from ms_impl.io.checkpoint import FORMATS, SINGLE_NAME
from ms_impl.io.checkpoint_assets import GENERATION_NAME
from ms_impl.io.dtypes import ALL
from ms_impl.io.rules import MINDSPORE
from ms_impl.io.tensors import ArrayTensor, CheckpointTensor
from ms_impl.plugin.graceful_stop import stop_requested
from ms_impl.plugin.run_state import RunCallback
from ms_impl.train import checkpoints
from ms_impl.train.optimizer_state import gather_state, restore_state
from ms_impl.train.ranks import any_rank, is_first_rank
from ms_impl.weights import ParameterTensor

OPTIMIZER, STEP_CELL = "optimizer.safetensors", "step_cell.safetensors"
COMPLETED = "completed.json"

_DTYPES = {dtype.carrier: dtype for dtype in ALL}


@dataclass(frozen=True)
class Target:
    """Where a run saves, how often, and what lies beside the weights.

    ``identity`` is what ``ms_impl.train.resume_check`` says of the run; ``assets`` is what belongs to the model beside
    its weights: content by file name.
    """

    root: Path
    saving: Saving
    assets: Mapping[str, bytes]
    identity: Mapping[str, Any]
    base_weights: str


class TrainingCheckpoints(RunCallback):
    """Saves every ``every`` steps, after the last, and when the run is asked to stop; then it stops it.

    All ranks take part; the first one writes. When it cannot, every rank stops with an InputError.
    """

    def __init__(self, target: Target):
        self._target = target

    def on_train_step_end(self, run_context) -> None:
        step, last = self.run.step.number, self.run.step.total
        self.run.stopped = any_rank(stop_requested()) and step < last
        if step % self._target.saving.every == 0 or step == last or self.run.stopped:
            self._save(step, run_context.original_args().train_network)
        if self.run.stopped:
            if is_first_rank():
                print(f"asked to stop: saved after step {step}; --resume_training True resumes from there", flush=True)
            run_context.request_stop()

    def _save(self, step: int, step_cell: nn.Cell) -> None:
        optimizer_state = gather_state(step_cell.optimizer)
        failure = None
        if is_first_rank():
            try:
                writers = [self._write_weights, partial(_write_states, optimizer_state, step_cell)]
                checkpoints.save(self._target.root, step, writers, self._target.identity, self._target.saving.keep)
            except InputError as error:
                failure = error
        if any_rank(failure is not None):
            raise failure or InputError(f"step {step}: the first rank could not write the checkpoint")
        self.run.saved_step = step

    def _write_weights(self, folder: Path) -> None:
        """The adapter if there is one, and the chat format and options it was trained in; else the whole model."""
        assets, model = self._target.assets, self.run.model
        if model.adapter is not None:
            model.adapter.save(folder, self._target.base_weights)
            assets = {name: assets[name] for name in (GENERATION_NAME, TEMPLATE_OPTIONS) if name in assets}
        else:
            parameters = [ParameterTensor(parameter) for parameter in model.network.get_parameters()]
            _write_tensors(parameters, folder / SINGLE_NAME)
        for name, content in assets.items():
            (folder / name).write_bytes(content)


def trained_parameters(model: nn.Cell) -> str:
    """How many parameters were trained, in words."""
    weights = [p for p in model.network.get_parameters() if p.dtype != ms.int32]  # seeds of dropout
    sizes = [(parameter.size, parameter.requires_grad) for parameter in weights]
    return f"trained {sum(n for n, trained in sizes if trained):,} of {sum(n for n, _ in sizes):,} parameters"


def restore_step_cell(step_cell: nn.Cell, folder: Path) -> None:
    """Give optimizer and loss scaling the state of a checkpoint."""
    restore_state(step_cell.optimizer, _read_arrays(folder / OPTIMIZER), str(folder / OPTIMIZER))
    saved = _read_arrays(folder / STEP_CELL)
    own = dict(_own_parameters(step_cell))
    if saved.keys() != own.keys():
        raise InputError(f"{folder / STEP_CELL}: was saved with another runner_wrapper: {sorted(saved.keys() ^ own)}")
    for name, parameter in own.items():
        parameter.set_data(Tensor(saved[name].reshape(parameter.shape), parameter.dtype))


def unmark_completed(output: Path) -> None:
    """Take away the mark of an earlier training."""
    (output / COMPLETED).unlink(missing_ok=True)


def mark_completed(output: Path, steps: int) -> None:
    """Leave the mark that the training has come to its end."""
    text = json.dumps({"steps": steps, "checkpoint": f"checkpoint/{checkpoints.folder_name(steps)}"})
    with atomic_write(output / COMPLETED) as aside:
        aside.write_text(text + "\n", encoding="utf-8")


def _write_states(optimizer_state: Mapping[str, np.ndarray], step_cell: nn.Cell, folder: Path) -> None:
    own = {name: parameter.asnumpy() for name, parameter in _own_parameters(step_cell)}
    _write_tensors(_as_tensors(optimizer_state), folder / OPTIMIZER)
    _write_tensors(_as_tensors(own), folder / STEP_CELL)


def _own_parameters(step_cell: nn.Cell) -> Iterator[tuple[str, Parameter]]:
    """The step cell's parameters that are neither the model's nor the optimizer's: those of loss scaling."""
    others = {id(parameter) for cell in (step_cell.network, step_cell.optimizer) for parameter in cell.get_parameters()}
    return ((p.name, p) for p in step_cell.get_parameters() if id(p) not in others)


def _as_tensors(arrays: Mapping[str, np.ndarray]) -> list[ArrayTensor]:
    return [ArrayTensor(name, values, _DTYPES[values.dtype]) for name, values in arrays.items()]


def _write_tensors(tensors: Sequence[CheckpointTensor], path: Path) -> None:
    with path.open("wb") as file:
        ordered = safetensors_files.canonical_order(tensors)
        safetensors_files.write(file, ordered, {"format": FORMATS[MINDSPORE]}, lambda _: None)


def _read_arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a file, mapped and not yet read."""
    tensors, _ = safetensors_files.read(path)
    return {name: tensor.array() for name, tensor in tensors.items()}
