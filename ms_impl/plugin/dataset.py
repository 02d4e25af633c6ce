"""Conversations as training data: the YAML's ``train_dataset`` to the steps of a run.

MindFormers 1.9.0's ``ModalToTextSFTDataset`` (dataset/modal_to_text_sft_dataset.py:57) is not used. It hands text to
models/multi_modal/base_multi_modal_processor.py and modal_content.py, which compute image positions before they
truncate, tokenize a lone ``<img>`` (modal_content.py:494), overwrite trained tokens of text-only samples, take special
tokens from the data's text, and fetch URLs that the data name.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from mindformers.dataset.base_dataset import BaseDataset
from mindformers.tools.register import MindFormerConfig
from mindspore.dataset import GeneratorDataset

from ms_impl.cli.annotations import mixture_of
from ms_impl.cli.plan import plan_settings, training_template
from ms_impl.data.batch_plan import BatchPlan, described
from ms_impl.data.encoded_dataset import EncodedDataset
from ms_impl.data.record_reading import cores
from ms_impl.data.trained_options import told
from ms_impl.plugin.model import ModelSection
from ms_impl.train.feed import Shard, StepFeed
from ms_impl.train.ranks import is_first_rank, parameters_are_whole, rank, world_size

logger = logging.getLogger(__name__)


class _Shards(BaseDataset):
    """MindFormers' answer to which part of a batch is whose, where it cuts models."""

    @classmethod
    def mine(cls) -> Shard:
        number, ranks = cls._generate_shard_info()
        return Shard(number or 0, ranks or 1)


def training_feed(
    section: Mapping[str, Any], model: ModelSection, epochs: int = 1, seed: int = 0, first_step: int = 0
) -> StepFeed:
    """All steps of a run from ``first_step`` on, for this rank; all records are read, and errors name them.

    ``batch_size`` of the section is the number of rows that this rank takes in a step, those of all micro-batches.
    """
    template = training_template(model.family, model.config, section)
    mixture = mixture_of(section["data_loader"], seed)
    samples = EncodedDataset(mixture, template, show_progress=is_first_rank())
    shard = Shard(rank(), world_size()) if parameters_are_whole() else _Shards.mine()
    rows = section["batch_size"] * shard.world_size
    plan = BatchPlan(samples, plan_settings(section, rows, epochs, seed, template))
    if plan.dropped:
        logger.warning("the last %d of %d rows are left out: they fill no step", plan.dropped, plan.total_rows)
    if is_first_rank():
        if options := told(template):
            print(f"template: {options}", flush=True)
        print(f"rows: {described(plan, template.needs)}", flush=True)
    return StepFeed(plan, samples, shard, first_step, section.get("loss_weighting") or "token")


def step_dataset(feed: StepFeed, section: MindFormerConfig) -> GeneratorDataset:
    """The steps of a feed as MindSpore takes them; the section says how many threads read them, one a core at most."""
    workers, most = section.get("num_parallel_workers", 1), cores()
    if workers > most:  # MindSpore takes no more
        if is_first_rank():
            logger.warning("num_parallel_workers: %d of %d, this process has no more cores", most, workers)
        section, workers = MindFormerConfig(**{**section, "num_parallel_workers": most}), most
    BaseDataset.init_dataset_config(section)
    return GeneratorDataset(
        feed,
        list(feed.columns),
        shuffle=False,
        num_parallel_workers=workers,
        python_multiprocessing=False,  # in this process, so that an InputError can be handed on whole
    )
