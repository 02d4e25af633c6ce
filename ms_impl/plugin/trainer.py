"""The trainer of vision-language models behind ``mindformers.Trainer``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import mindspore as ms
from mindformers.models.build_config import build_model_config
from mindformers.models.build_tokenizer import build_tokenizer
from mindformers.tools.register import MindFormerConfig, MindFormerModuleType, MindFormerRegister
from mindformers.trainer.multi_modal_to_text_generation import MultiModalToTextGenerationTrainer
from mindspore import nn
from mindspore.nn.utils import no_init_parameters

from ms_impl.evaluate.data_set import DataSet
from ms_impl.evaluate.results import Result
from ms_impl.generate.mixin import Query
from ms_impl.plugin.evaluate import evaluate_checkpoint
from ms_impl.plugin.predict import answered, generation_settings, save_result
from ms_impl.train.joint_batch import wait_for_ranks
from ms_impl.weights import load_weights

_WHOLE_PARAMETERS = (ms.ParallelMode.STAND_ALONE, ms.ParallelMode.DATA_PARALLEL)


@MindFormerRegister.register(MindFormerModuleType.TRAINER, alias="MultiModalToTextGenerationTrainer")
class VisionLanguageTrainer(MultiModalToTextGenerationTrainer):
    """MindFormers 1.9.0's trainer (trainer/multi_modal_to_text_generation), under its own name in YAML.

    Weights to start from are read here wherever each rank holds whole parameters: MindFormers (trainer/utils.py:762)
    passes over missing and unused ones, takes one safetensors file only without ranks, and needs the Barrier operator,
    which CPU lacks (trainer/utils.py:167). Resuming, and cutting weights for semi-automatic parallelism, stay with it.
    """

    def train(self, config: MindFormerConfig, **kwargs) -> None:
        """Train as the YAML says. Raises InputError for a conversation or an image that turns out to be damaged."""
        self._weights = _take_weights(config)
        try:
            super().train(config, **kwargs)
        except RuntimeError:
            rows = getattr(self.train_dataset, "rows", None)
            if rows and rows.error:
                raise rows.error from None
            raise
        if config.use_parallel:
            wait_for_ranks()  # a rank that leaves early would take the others' connection down

    def predict(
        self, config: MindFormerConfig, input_data: Sequence[Query], batch_size: int | None = None, **_
    ) -> list[str]:
        """Answer prompts, print each with its answer, and save all where MindFormers saves them.

        Args:
            input_data: prompts, each text or in list format.
            batch_size: prompts answered at a time.
        """
        self.set_config(config, is_full_config=True)
        checkpoint = Path(config.checkpoint.load_path)
        self._weights = _take_weights(config)
        network = self.create_network().set_train(False)
        tokenizer = build_tokenizer(
            config.processor.tokenizer, default_args={"num_queries": network.config.config.num_queries}
        )
        processor = network.config.family.resolve("processor")(tokenizer, network.config.config)
        generation = generation_settings(checkpoint, config.model.generation_config or {})
        texts = []
        for text in answered(network.network, processor, input_data, generation, batch_size or 1, config.seed):
            print(text, flush=True)
            texts.append(text)
        save_result(texts, Path(config.save_file or f"{self.task}_result.txt"))
        return texts

    def evaluate(self, config: MindFormerConfig, dataset: Sequence[DataSet], **_) -> list[Result] | None:
        """Put data sets to a checkpoint: see ``evaluate_checkpoint``."""
        self.set_config(config, is_full_config=True)
        checkpoint = Path(config.checkpoint.load_path)
        self._weights = _take_weights(config)
        return evaluate_checkpoint(self.config, dataset, checkpoint, self.create_network)

    def create_train_dataset(self, default_args=None):
        """The YAML's train_dataset, which needs to know the model's configuration."""
        section = build_model_config(self.config.model.model_config)
        return super().create_train_dataset({"model": section, **(default_args or {})})

    def create_network(self, default_args=None) -> nn.Cell:
        """The YAML's model, with its weights read."""
        if not self._weights:
            return super().create_network(default_args)
        with no_init_parameters():
            network = super().create_network(default_args)
        load_weights(network.network, self._weights, network.config.family)
        return network


def _take_weights(config: MindFormerConfig) -> str | None:
    """The checkpoint that this trainer reads itself; MindFormers is then told of none."""
    if config.resume_training or ms.get_auto_parallel_context("parallel_mode") not in _WHOLE_PARAMETERS:
        return None
    path, config.checkpoint.load_path, config.load_checkpoint = config.checkpoint.load_path, "", ""
    return path
