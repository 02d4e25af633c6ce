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

from ms_impl.adapters.adapter import DROPOUT_SEEDS
from ms_impl.cli.training_plan import AnsweringPlan, TrainingPlan
from ms_impl.evaluate.results import Result, check_writable
from ms_impl.generate.memory import check_memory
from ms_impl.generate.mixin import Query
from ms_impl.plugin.callbacks import with_step_callbacks
from ms_impl.plugin.dataset import step_dataset, training_feed
from ms_impl.plugin.evaluate import EvaluationMonitor, evaluate_checkpoint
from ms_impl.plugin.learning_rates import named_parameters, rates_of, set_lengths, trained_table
from ms_impl.plugin.predict import answered, answering_template, generation_settings, save_answers
from ms_impl.plugin.run_state import RunState
from ms_impl.plugin.training_run import AlreadyTrained, TrainingRun
from ms_impl.train.ranks import is_first_rank, wait_for_ranks
from ms_impl.weights import load_weights


@MindFormerRegister.register(MindFormerModuleType.TRAINER, alias="MultiModalToTextGenerationTrainer")
class VisionLanguageTrainer(MultiModalToTextGenerationTrainer):
    """MindFormers 1.9.0's trainer (trainer/multi_modal_to_text_generation), under its own name in YAML.

    Where each rank holds whole parameters, weights to start from are read here, and ``TrainingRun`` saves and resumes.
    MindFormers (trainer/utils.py:762) ignores missing and unused weights, takes one safetensors file only without
    ranks, and needs the Barrier operator, which CPU lacks (trainer/utils.py:167); its checkpoints know neither the
    order of the data nor the loss scale, and what a kill leaves half-written looks whole to it. In semi-automatic
    parallelism, where parameters are cut, all this stays with MindFormers.

    Attributes:
        plan: what the run does. MindFormers makes its trainer itself; it is given before it is used.
    """

    plan: TrainingPlan | AnsweringPlan
    _run: TrainingRun | None = None

    def train(self, config: MindFormerConfig, **kwargs) -> None:
        """Train as the plan says. Raises InputError for a conversation or an image that turns out to be damaged."""
        self._state = RunState(Path(get_output_root_path()))
        self._run = TrainingRun(self.plan, self._state) if self.plan.files.whole else None
        try:
            super().train(config, **kwargs)
        except AlreadyTrained:
            pass  # a run killed between its last checkpoint and its end
        except RuntimeError:
            if self._state.feed and self._state.feed.error:
                raise self._state.feed.error from None
            raise
        wait_for_ranks()  # a rank that leaves early would take the others' connection down
        if self._run and not self._state.stopped:
            self._run.finish()

    def predict(self, config: MindFormerConfig, input_data: Sequence[Query], **_) -> list[str]:
        """Answer prompts, print each with its answer, and save all in ``<output_dir>/predict.jsonl``.

        Args:
            input_data: prompts, each text or in list format.
        """
        self.set_config(config, is_full_config=True)
        saved = Path(get_output_root_path()) / "predict.jsonl"
        check_writable([saved])
        plan, files = self.plan, self.plan.files
        network = self.create_network().set_train(False)
        template = answering_template(plan, network.config.config)
        generation = generation_settings(files.weights, files.config_file, files.generation, files.family, plan.adapter)
        answers = []
        for answer in answered(network.network, template, input_data, generation, plan.batch_size, plan.seed):
            print(answer.text, flush=True)
            answers.append(answer)
        if is_first_rank():
            save_answers(answers, saved)
        return [answer.text for answer in answers]

    def evaluate(self, config: MindFormerConfig, **_) -> list[Result] | None:
        """Put data sets to a checkpoint: see ``evaluate_checkpoint``."""
        self.set_config(config, is_full_config=True)
        return evaluate_checkpoint(self.plan, self.config, self.create_network)

    def create_train_dataset(self, default_args=None):
        """The YAML's train_dataset: all steps that are still to be done."""
        section = build_model_config(self.config.model.model_config)
        first_step = self._run.first_step if self._run else 0
        data = self.config.train_dataset
        self._state.feed = training_feed(data, section, self.plan.epochs, self.plan.seed, first_step)
        lengths = set_lengths(self.config, self._state.feed.plan.total_steps)
        if self._run:
            self._run.check(lengths)
        return step_dataset(self._state.feed, data)

    def create_network(self, default_args=None) -> nn.Cell:
        """The YAML's model with weights and adapter: those to start from, to resume from, or to answer with."""
        resumed = self._run.resumed if self._run else None
        files, trains = self.plan.files, isinstance(self.plan, TrainingPlan)
        weights = files.weights if files.whole else ""
        if resumed and not self.plan.trains_adapter:
            weights = resumed
        if not weights:
            network = super().create_network(default_args)
        else:
            with no_init_parameters():
                network = super().create_network(default_args)
            if not trains:
                check_memory(network.network, Path(weights), self.plan.adapter is not None)
            load_weights(network.network, weights, files.family, None if trains else self.plan.adapter)
        if network.adapter and (folder := resumed or network.config.first_adapter):
            network.adapter.load(folder)
        if trains:
            self._state.model = network
        return network

    def create_optimizer_scheduler(self, network, model_params) -> nn.Optimizer:
        """The YAML's optimizer and schedules; grouped_lr_schedule may name parts of the model."""
        trained, section = [parameter.name for parameter in network.trainable_params()], network.config
        if schedules := self.config.grouped_lr_schedule:
            named = named_parameters(schedules, section.family, section.config, trained)
            self.config.grouped_lr_schedule = MindFormerConfig(**named)
        if is_first_rank():
            parameters = network.network.get_parameters()
            sizes = {parameter.name: parameter.size for parameter in parameters if parameter.name != DROPOUT_SEEDS}
            rates = rates_of(self.config, self.config.grouped_lr_schedule, trained)
            print(*trained_table(section.family, sizes, trained, rates), sep="\n", flush=True)
        return super().create_optimizer_scheduler(network, model_params)

    def create_model_wrapper(self, network, optimizer) -> nn.Cell:
        """The YAML's runner_wrapper, as the resumed run left it."""
        step_cell = super().create_model_wrapper(network, optimizer)
        if self._run:
            self._run.restore_step_cell(step_cell)
        return step_cell

    def sort_callbacks(self, default_callbacks: list[Callback]) -> list[Callback]:
        """The YAML's callbacks, and after them the one that saves: not before the others have looked at the step."""
        monitoring = [EvaluationMonitor(self.plan)] if self.plan.monitoring else []
        saving = [self._run.callback()] if self._run else []
        return with_step_callbacks([*super().sort_callbacks(default_callbacks), *monitoring, *saving], self._state)
