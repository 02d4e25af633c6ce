"""``--run_mode eval``, and evaluation while training."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import mindspore as ms
import numpy as np
from mindformers.models.build_config import build_model_config
from mindformers.tools.register import MindFormerConfig, MindFormerModuleType, MindFormerRegister
from mindformers.tools.utils import get_output_root_path
from mindspore import nn
from mindspore.train.callback import Callback

from ms_impl.cli.eval_settings import data_sets
from ms_impl.data.chatml import CHATML
from ms_impl.errors import InputError
from ms_impl.evaluate.data_set import DataSet
from ms_impl.evaluate.evaluation import Evaluation, Ranks, run
from ms_impl.evaluate.results import Result, save_lines, table
from ms_impl.generate.config import GenerationConfig
from ms_impl.io.checkpoint_assets import CHAT_FORMAT
from ms_impl.plugin.model import ModelSection, TrainerModel
from ms_impl.plugin.predict import generation_settings
from ms_impl.train.grad_accumulation import data_parallel_ranks
from ms_impl.train.loss_log import read_records
from ms_impl.train.ranks import parameters_are_whole, rank, wait_for_ranks
from ms_impl.train.step import Step
from ms_impl.train.tensorboard_log import TensorBoardLog

_SCORES = "scores.jsonl"


def evaluate_checkpoint(
    config: MindFormerConfig,
    asked: Sequence[DataSet],
    checkpoint: Path,
    create_network: Callable[[], TrainerModel],
    adapter: str | None = None,
) -> list[Result] | None:
    """Put data sets to a checkpoint; print and save what comes out (see ``ms_impl.evaluate.evaluation.run``).

    ``create_network`` is called when all records have been checked; it merges the ``adapter``, whose chat format counts
    before the checkpoint's. Raises InputError naming a record that has a fault.
    """
    _require_whole_parameters()
    section = build_model_config(config.model.model_config)
    model_config, changes = config.model.model_config, config.model.generation_config or {}
    generation = generation_settings(checkpoint, model_config.config_file, changes, section.family, adapter)
    evaluations = _prepare(asked, config.processor.tokenizer, section, generation)
    model = create_network().set_train(False).network
    results = run(evaluations, model, weights_digest(model), _folder(), _ranks())
    if results:
        print(table(results), flush=True)
    return results


@MindFormerRegister.register(MindFormerModuleType.CALLBACK)
class EvaluationMonitor(Callback):
    """Evaluates the network in training every so many steps or epochs. Training goes on as if it had not.

    Results of step N are in ``<output_dir>/eval/step_N``, and ``<output_dir>/eval/scores.jsonl`` has one line for each
    evaluation: ``{"step": N, "<data set>": {"<score>": …}}``. ``do_eval: True`` makes one of these
    (``ms_impl.cli.eval_settings``).
    """

    def __init__(
        self,
        eval_dataset: Mapping[str, Any],
        tokenizer: Mapping[str, Any],
        checkpoint: str,
        config_file: str,
        generation_config: Mapping[str, Any],
        step_interval: int | None = None,
        epoch_interval: int | None = None,
    ):
        self._asked = data_sets(eval_dataset)
        self._tokenizer = tokenizer
        self._checkpoint = Path(checkpoint or config_file), config_file
        self._changes = {CHAT_FORMAT: CHATML, **generation_config}
        self._step_interval = step_interval
        self._epoch_interval = epoch_interval

    def on_train_begin(self, run_context) -> None:
        """Check all records, and the scores that are there already."""
        _require_whole_parameters()
        read_scores(_folder() / _SCORES)
        state = run_context.original_args()
        self._network = _trained_network(state.train_network)
        generation = generation_settings(*self._checkpoint, self._changes, self._network.config.family)
        self._evaluations = _prepare(self._asked, self._tokenizer, self._network.config, generation)
        self._epochs = int(state.feed.plan.epoch_at(state.feed.first_step))

    def on_train_step_end(self, run_context) -> None:
        state = run_context.original_args()
        if self._is_due(state.step):
            self._evaluate(state.step.number, state.events)

    def _is_due(self, step: Step) -> bool:
        """Whether a step completes so many steps or epochs. (MindSpore takes all epochs of a run for one.)"""
        is_last = step.number == step.total  # it may leave out rows of the last epoch
        done, self._epochs = self._epochs, math.ceil(step.epoch) if is_last else int(step.epoch)
        by_steps = self._step_interval and step.number % self._step_interval == 0
        by_epochs = self._epoch_interval and self._epochs // self._epoch_interval > done // self._epoch_interval
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


def _prepare(
    asked: Sequence[DataSet], tokenizer: Mapping[str, Any], section: ModelSection, generation: GenerationConfig
) -> list[Evaluation]:
    template = section.family.make_template(tokenizer["vocab_file"], section.config)
    return [Evaluation(data, template, generation) for data in asked]


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


def _trained_network(train_network: nn.Cell) -> TrainerModel:
    """The model within the cells that train it."""
    return next(cell for _, cell in train_network.cells_and_names() if isinstance(cell, TrainerModel))


@contextmanager
def _eval_mode(model: nn.Cell) -> Iterator[None]:
    training = model.training
    model.set_train(False)
    try:
        yield
    finally:
        model.set_train(training)
