"""``--run_mode eval``, and evaluation while training."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import mindspore as ms
import numpy as np
from mindformers.models.build_config import build_model_config
from mindformers.tools.register import MindFormerConfig
from mindformers.tools.utils import get_output_root_path
from mindspore import nn

from ms_impl.cli.training_plan import AnsweringPlan, TrainingPlan
from ms_impl.data.chatml import CHATML
from ms_impl.data.trained_options import kept
from ms_impl.errors import InputError
from ms_impl.evaluate.evaluation import Evaluation, Ranks, run
from ms_impl.evaluate.results import Result, save_lines, table
from ms_impl.io.checkpoint_assets import CHAT_FORMAT
from ms_impl.plugin.model import TrainerModel
from ms_impl.plugin.predict import answering_template, generation_settings
from ms_impl.plugin.run_state import RunCallback
from ms_impl.train.grad_accumulation import data_parallel_ranks
from ms_impl.train.loss_log import read_records
from ms_impl.train.ranks import parameters_are_whole, rank, wait_for_ranks
from ms_impl.train.step import Step
from ms_impl.train.tensorboard_log import TensorBoardLog

_SCORES = "scores.jsonl"


def evaluate_checkpoint(
    plan: AnsweringPlan, config: MindFormerConfig, create_network: Callable[[], TrainerModel]
) -> list[Result] | None:
    """Put data sets to a checkpoint; print and save what comes out (see ``ms_impl.evaluate.evaluation.run``).

    ``create_network`` is called when all records have been checked; it merges the plan's adapter, whose chat format
    counts before the checkpoint's. Raises InputError naming a record that has a fault.
    """
    _require_whole_parameters()
    files, section = plan.files, build_model_config(config.model.model_config)
    generation = generation_settings(files.weights, files.config_file, files.generation, files.family, plan.adapter)
    template = answering_template(plan, section.config)
    evaluations = [Evaluation(data, template, generation) for data in plan.data_sets]
    model = create_network().set_train(False).network
    results = run(evaluations, model, weights_digest(model), _folder(), _ranks())
    if results:
        print(table(results), flush=True)
    return results


class EvaluationMonitor(RunCallback):
    """Evaluates the network in training every so many steps or epochs. Training goes on as if it had not.

    Results of step N are in ``<output_dir>/eval/step_N``, and ``<output_dir>/eval/scores.jsonl`` has one line for each
    evaluation: ``{"step": N, "<data set>": {"<score>": …}}``. A plan with ``monitoring`` (``do_eval: True``) has one.
    """

    def __init__(self, plan: TrainingPlan):
        files = plan.files
        self._files, self._asked = files, plan.monitoring
        trained = {CHAT_FORMAT: CHATML} if CHAT_FORMAT in files.family.generation else {}
        changes = {**trained, **files.generation}
        self._generation = generation_settings(files.weights, files.config_file, changes, files.family)

    def on_train_begin(self, run_context) -> None:
        """Check all records, and the scores that are there already."""
        _require_whole_parameters()
        read_scores(_folder() / _SCORES)
        self._network = self.run.model
        shown = kept(self.run.feed.samples.template)
        template = self._files.family.make_template(self._files.vocabulary, self._network.config.config, **shown)
        self._evaluations = [Evaluation(data, template, self._generation) for data in self._asked.data_sets]
        self._epochs = int(self.run.feed.plan.epoch_at(self.run.feed.first_step))

    def on_train_step_end(self, run_context) -> None:
        if self._is_due(self.run.step):
            self._evaluate(self.run.step.number, self.run.events)

    def _is_due(self, step: Step) -> bool:
        """Whether a step completes so many steps or epochs. (MindSpore takes all epochs of a run for one.)"""
        is_last = step.number == step.total  # it may leave out rows of the last epoch
        done, self._epochs = self._epochs, math.ceil(step.epoch) if is_last else int(step.epoch)
        steps, epochs = self._asked.step_interval, self._asked.epoch_interval
        by_steps = steps and step.number % steps == 0
        by_epochs = epochs and self._epochs // epochs > done // epochs
        return bool(by_steps or by_epochs)

    def _evaluate(self, step: int, events: TensorBoardLog | None) -> None:
        model = self._network.network
        with _eval_mode(model):
            results = run(self._evaluations, model, weights_digest(model), _folder() / f"step_{step}", _ranks())
        if results:
            print(table(results), flush=True)
            record_scores(_folder() / _SCORES, step, results)
            if events:
                scores = {f"{result.name}/{name}": score for result in results for name, score in result.scores.items()}
                events.write(step, scores)


def weights_digest(model: nn.Cell) -> str:
    """sha256 of all parameters: names, dtypes and values."""
    digest = hashlib.sha256()
    for name, parameter in sorted(model.parameters_dict().items()):
        whole = parameter.astype(ms.float32) if parameter.dtype == ms.bfloat16 else parameter
        digest.update(f"{name} {parameter.dtype} {parameter.shape}".encode())
        digest.update(np.ascontiguousarray(whole.asnumpy()))
    return digest.hexdigest()


def record_scores(path: Path, step: int, results: list[Result]) -> None:
    """Add a line to the scores of a run; lines of later steps, from before it was resumed, go."""
    kept = [line for line in read_scores(path) if line["step"] < step]
    scores = {result.name: dict(result.scores) for result in results}
    save_lines([*kept, {"step": step, **scores}], path)


def read_scores(path: Path) -> list[dict[str, Any]]:
    """The lines of a run's scores, none where there is no file. Raises InputError for any other content."""
    lines = read_records(path, ("step",)) if path.exists() else []
    if any(not isinstance(line["step"], int) for line in lines):
        raise InputError(f"{path}: a 'step' is not a number; delete the file or move it away")
    return lines


def _require_whole_parameters() -> None:
    if not parameters_are_whole():
        mode = ms.get_auto_parallel_context("parallel_mode")
        raise InputError(
            f"parallel.parallel_mode: evaluation needs whole parameters on each rank, not {mode}; set it to 0"
        )


def _ranks() -> Ranks:
    size = data_parallel_ranks()
    return Ranks(rank(), size, wait_for_ranks) if size > 1 else Ranks()


def _folder() -> Path:
    return Path(get_output_root_path()) / "eval"


@contextmanager
def _eval_mode(model: nn.Cell) -> Iterator[None]:
    training = model.training
    model.set_train(False)
    try:
        yield
    finally:
        model.set_train(training)
