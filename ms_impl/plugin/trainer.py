"""The trainer of vision-language models behind ``mindformers.Trainer``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mindformers.models.build_config import build_model_config
from mindformers.tools.register import MindFormerConfig, MindFormerModuleType, MindFormerRegister
from mindformers.tools.utils import get_output_root_path
from mindformers.trainer.multi_modal_to_text_generation import MultiModalToTextGenerationTrainer
from mindspore import nn
from mindspore.nn.utils import no_init_parameters
from mindspore.train.callback import Callback

from ms_impl.evaluate.data_set import DataSet
from ms_impl.evaluate.results import Result, check_writable
from ms_impl.generate.mixin import Query
from ms_impl.plugin.callbacks import with_step_callbacks
from ms_impl.plugin.evaluate import evaluate_checkpoint
from ms_impl.plugin.learning_rates import name_parameters
from ms_impl.plugin.predict import answered, generation_settings, save_answers, take_adapter
from ms_impl.plugin.training_run import AlreadyTrained, TrainingRun
from ms_impl.train.ranks import is_first_rank, parameters_are_whole, wait_for_ranks
from ms_impl.weights import load_weights


@MindFormerRegister.register(MindFormerModuleType.TRAINER, alias="MultiModalToTextGenerationTrainer")
class VisionLanguageTrainer(MultiModalToTextGenerationTrainer):
    """MindFormers 1.9.0's trainer (trainer/multi_modal_to_text_generation), under its own name in YAML.

    Where each rank holds whole parameters, weights to start from are read here, and ``TrainingRun`` saves and resumes.
    MindFormers (trainer/utils.py:762) ignores missing and unused weights, takes one safetensors file only without
    ranks, and needs the Barrier operator, which CPU lacks (trainer/utils.py:167); its checkpoints know neither the
    order of the data nor the loss scale, and what a kill leaves half-written looks whole to it. In semi-automatic
    parallelism, where parameters are cut, all this stays with MindFormers.
    """

    _run: TrainingRun | None = None
    _merged: str | None = None  # the adapter that answers are given with

    def train(self, config: MindFormerConfig, **kwargs) -> None:
        """Train as the YAML says. Raises InputError for a conversation or an image that turns out to be damaged."""
        self._weights = _take_weights(config)
        self._run = TrainingRun(config, self._weights) if parameters_are_whole() else None
        # The data set has the steps of all epochs.
        self._epochs, config.runner_config.epochs = config.runner_config.epochs, 1
        try:
            super().train(config, **kwargs)
        except AlreadyTrained:
            pass  # a run killed between its last checkpoint and its end
        except RuntimeError:
            feed = getattr(self.train_dataset, "feed", None)
            if feed and feed.error:
                raise feed.error from None
            raise
        wait_for_ranks()  # a rank that leaves early would take the others' connection down
        if self._run and not self._run.stopped:
            self._run.finish()

    def predict(
        self, config: MindFormerConfig, input_data: Sequence[Query], batch_size: int | None = None, **_
    ) -> list[str]:
        """Answer prompts, print each with its answer, and save all in ``<output_dir>/predict.jsonl``.

        Args:
            input_data: prompts, each text or in list format.
            batch_size: prompts answered at a time.
        """
        self.set_config(config, is_full_config=True)
        saved = Path(get_output_root_path()) / "predict.jsonl"
        check_writable([saved])
        checkpoint = Path(config.checkpoint.load_path)
        self._weights = _take_weights(config)
        self._merged = take_adapter(config.model.model_config, self._weights)
        network = self.create_network().set_train(False)
        vocabulary = config.processor.tokenizer.vocab_file
        template = network.config.family.make_template(vocabulary, network.config.config)
        changes = config.model.generation_config or {}
        config_file = config.model.model_config.config_file
        generation = generation_settings(checkpoint, config_file, changes, network.config.family, self._merged)
        answers = []
        for answer in answered(network.network, template, input_data, generation, batch_size or 1, config.seed):
            print(answer.text, flush=True)
            answers.append(answer)
        if is_first_rank():
            save_answers(answers, saved)
        return [answer.text for answer in answers]

    def evaluate(self, config: MindFormerConfig, dataset: Sequence[DataSet], **_) -> list[Result] | None:
        """Put data sets to a checkpoint: see ``evaluate_checkpoint``."""
        self.set_config(config, is_full_config=True)
        checkpoint = Path(config.checkpoint.load_path)
        self._weights = _take_weights(config)
        self._merged = take_adapter(config.model.model_config, self._weights)
        return evaluate_checkpoint(self.config, dataset, checkpoint, self.create_network, self._merged)

    def create_train_dataset(self, default_args=None):
        """The YAML's train_dataset: all steps that are still to be done."""
        section = build_model_config(self.config.model.model_config)
        first_step = self._run.first_step if self._run else 0
        run = {"model": section, "epochs": self._epochs, "seed": self.config.seed or 0, "first_step": first_step}
        dataset = super().create_train_dataset({**run, **(default_args or {})})
        lengths = _set_total_steps(self.config, dataset.plan.total_steps)
        if self._run:
            self._run.check(dataset, lengths)
        return dataset

    def create_network(self, default_args=None) -> nn.Cell:
        """The YAML's model with weights and adapter: those to start from, to resume from, or to answer with."""
        resumed = self._run.resumed if self._run else None
        weights = resumed if resumed and not self.config.model.model_config.lora else self._weights
        if not weights:
            network = super().create_network(default_args)
        else:
            with no_init_parameters():
                network = super().create_network(default_args)
            load_weights(network.network, weights, network.config.family, self._merged)
        if network.adapter and (folder := resumed or network.config.first_adapter):
            network.adapter.load(folder)
        self._model = network
        return network

    def create_optimizer_scheduler(self, network, model_params) -> nn.Optimizer:
        """The YAML's optimizer and schedules; grouped_lr_schedule may name module groups."""
        if self.config.grouped_lr_schedule:
            trained = [parameter.name for parameter in network.trainable_params()]
            name_parameters(self.config.grouped_lr_schedule, network.config.family, trained)
        return super().create_optimizer_scheduler(network, model_params)

    def create_model_wrapper(self, network, optimizer) -> nn.Cell:
        """The YAML's runner_wrapper, as the resumed run left it."""
        step_cell = super().create_model_wrapper(network, optimizer)
        if self._run:
            self._run.restore_step_cell(step_cell)
        return step_cell

    def sort_callbacks(self, default_callbacks: list[Callback]) -> list[Callback]:
        """The YAML's callbacks, and after them the one that saves: not before the others have looked at the step."""
        saving = [self._run.callback(self._model)] if self._run else []
        return with_step_callbacks([*super().sort_callbacks(default_callbacks), *saving])


def _set_total_steps(config: MindFormerConfig, total_steps: int) -> list[int]:
    """The lengths of the schedules; those that name none have that of the whole run, also when a part of it is done."""
    grouped = config.grouped_lr_schedule
    schedules = [grouped.default, *grouped.grouped] if grouped else [config.lr_schedule]
    schedules = [schedule for schedule in schedules if schedule]
    for schedule in schedules:
        if schedule.get("total_steps") in (None, -1):
            schedule["total_steps"] = total_steps
    return [schedule["total_steps"] for schedule in schedules]


def _take_weights(config: MindFormerConfig) -> str | None:
    """The checkpoint that this trainer reads itself; MindFormers is then told of none."""
    if not parameters_are_whole():
        return None
    path, config.checkpoint.load_path, config.load_checkpoint = config.checkpoint.load_path, "", ""
    return path
