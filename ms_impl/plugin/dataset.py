"""Conversations as MindFormers' training data."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from mindformers.dataset.base_dataset import BaseDataset
from mindformers.tools.register import MindFormerModuleType, MindFormerRegister
from mindspore.dataset import Dataset, GeneratorDataset

from ms_impl.cli.annotations import annotation_files
from ms_impl.cli.plan import plan_settings, training_template
from ms_impl.data.batch_plan import BatchPlan, described
from ms_impl.data.encoded_dataset import EncodedDataset
from ms_impl.data.files import Mixture
from ms_impl.plugin.model import ModelSection
from ms_impl.train.feed import Shard, StepFeed
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
        """All steps of a run from ``first_step`` on: its feed's columns, with its ``feed`` and its ``plan``.

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
            list(feed.columns),
            shuffle=False,
            num_parallel_workers=dataset_config.get("num_parallel_workers", 1),
            python_multiprocessing=False,  # in this process, so that an InputError can be handed on whole
        )
        dataset.feed, dataset.plan = feed, feed.plan
        return dataset


def _feed(
    config: Mapping[str, Any], model: ModelSection, shard: Shard, epochs: int, seed: int, first_step: int
) -> StepFeed:
    template = training_template(model.family, model.config, config)
    loader = config["data_loader"]
    mixture = Mixture(annotation_files(loader["annotation_file"]), loader.get("num_samples"))
    dialogues = EncodedDataset(mixture, template, show_progress=is_first_rank())
    rows = config["batch_size"] * shard.world_size
    plan = BatchPlan(dialogues, plan_settings(config, rows, epochs, seed, template))
    if plan.dropped:
        logger.warning("the last %d of %d rows are left out: they fill no step", plan.dropped, plan.total_rows)
    if is_first_rank():
        print(f"rows: {described(plan, template.needs)}", flush=True)
    return StepFeed(plan, dialogues, shard, first_step, config.get("loss_weighting") or "token")
