"""Conversations as MindFormers' training data."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from mindformers.dataset.base_dataset import BaseDataset
from mindformers.dataset.transforms import build_transforms
from mindformers.models.build_tokenizer import build_tokenizer
from mindformers.tools.register import MindFormerModuleType, MindFormerRegister
from mindspore.dataset import Dataset, GeneratorDataset

from ms_impl.cli.annotations import annotation_files
from ms_impl.cli.plan import plan_settings
from ms_impl.data.batch_plan import BatchPlan
from ms_impl.data.encoded_dataset import EncodedDataset
from ms_impl.data.files import Mixture
from ms_impl.plugin.model import ModelSection
from ms_impl.train.feed import INPUT_COLUMNS, Shard, StepFeed
from ms_impl.train.ranks import is_first_rank, parameters_are_whole, rank, world_size

logger = logging.getLogger(__name__)


@MindFormerRegister.register(MindFormerModuleType.DATASET, alias="ModalToTextSFTDataset")
class ConversationDataset(BaseDataset):
    """The YAML's ``train_dataset`` under MindFormers' own type name; the work is that of ``ms_impl.data``.

    MindFormers 1.9.0's class (dataset/modal_to_text_sft_dataset.py:57) hands text to
    models/multi_modal/base_multi_modal_processor.py and modal_content.py, which compute image positions before they
    truncate, tokenize a lone ``<img>`` (modal_content.py:494), overwrite trained tokens of text-only samples, take
    special tokens from the data's text, and fetch URLs that the data name.
    """

    def __new__(
        cls, dataset_config: Mapping[str, Any], model: ModelSection, epochs: int = 1, seed: int = 0, first_step: int = 0
    ) -> Dataset:
        """All steps of a run from ``first_step`` on: ``INPUT_COLUMNS``, with its ``feed`` and its ``plan``.

        ``batch_size`` is the number of rows that this rank takes in a step, those of all micro-batches together.
        """
        cls.init_dataset_config(dataset_config)
        shard = Shard(rank(), world_size())
        if not parameters_are_whole():
            number, ranks = cls._generate_shard_info()
            shard = Shard(number or 0, ranks or 1)
        feed = _feed(dataset_config, model, shard, epochs, seed, first_step)
        dataset = GeneratorDataset(
            feed,
            list(INPUT_COLUMNS),
            shuffle=False,
            num_parallel_workers=dataset_config.get("num_parallel_workers", 1),
            python_multiprocessing=False,  # in this process, so that an InputError can be handed on whole
        )
        dataset.feed, dataset.plan = feed, feed.plan
        dataset.pixels = _normalisation(dataset_config)
        return dataset


def _feed(
    config: Mapping[str, Any], model: ModelSection, shard: Shard, epochs: int, seed: int, first_step: int
) -> StepFeed:
    template = _template(config, model)
    loader = config["data_loader"]
    mixture = Mixture(annotation_files(loader["annotation_file"]), loader.get("num_samples"))
    dialogues = EncodedDataset(mixture, template.reader, show_progress=is_first_rank())
    rows = config["batch_size"] * shard.world_size
    settings = plan_settings(config, rows, epochs, seed, template.image_slots)
    plan = BatchPlan(dialogues, settings)
    if plan.dropped:
        logger.warning("the last %d of %d rows are left out: they fill no step", plan.dropped, plan.total_rows)
    return StepFeed(plan, dialogues, template.collate, shard, first_step, config.get("loss_weighting") or "token")


def _template(config: Mapping[str, Any], model: ModelSection) -> Any:
    """The family's own class for ``model_transform_template``."""
    transform = config["modal_to_text_transform"]
    mean, std = _normalisation(config)
    tokenizer = build_tokenizer(config["tokenizer"], default_args={"num_queries": model.config.num_queries})
    return build_transforms(
        transform["model_transform_template"],
        default_args={
            "tokenizer": tokenizer, "model": model, "max_length": transform["max_length"], "mean": mean, "std": std,
        },
    )  # fmt: skip


def _normalisation(config: Mapping[str, Any]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and deviation of the colours, which are taken off in one go when an image is read."""
    normalise = config["modal_content_transforms"][-1]
    return tuple(normalise["mean"]), tuple(normalise["std"])
