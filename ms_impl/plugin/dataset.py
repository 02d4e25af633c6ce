"""Conversations as MindFormers' training data."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from mindformers.dataset.base_dataset import BaseDataset
from mindformers.dataset.transforms import build_transforms
from mindformers.models.build_tokenizer import build_tokenizer
from mindformers.tools.register import MindFormerModuleType, MindFormerRegister
from mindspore.dataset import Dataset, GeneratorDataset

from ms_impl.data.batch import Sample
from ms_impl.data.conversations import read_conversations
from ms_impl.errors import InputError
from ms_impl.plugin.model import INPUT_COLUMNS, ModelSection

logger = logging.getLogger(__name__)

_LOADER, _TRANSFORM = "BaseMultiModalDataLoader", "BaseXModalToTextTransform"
_PIXEL_STEPS = ["BatchToTensor", "BatchNormalize"]

Row = tuple[np.ndarray, ...]


@MindFormerRegister.register(MindFormerModuleType.DATASET, alias="ModalToTextSFTDataset")
class ConversationDataset(BaseDataset):
    """The YAML's ``train_dataset`` under MindFormers' own type name; the work is that of ``ms_impl.data``.

    MindFormers 1.9.0's class (dataset/modal_to_text_sft_dataset.py:57) hands text to
    models/multi_modal/base_multi_modal_processor.py and modal_content.py, which compute image positions before they
    truncate, tokenize a lone ``<img>`` (modal_content.py:494), overwrite trained tokens of text-only samples, take
    special tokens from the data's text, and fetch URLs that the data name.
    """

    def __new__(cls, dataset_config: Mapping[str, Any], model: ModelSection) -> Dataset:
        """A data set that yields batches of ``INPUT_COLUMNS``, cut for this rank where the run is data parallel."""
        cls.init_dataset_config(dataset_config)
        rows = _read_rows(dataset_config, model)
        shard_id, num_shards = cls._generate_shard_info()
        batch_size, drop_remainder = dataset_config["batch_size"], dataset_config.get("drop_remainder", True)
        dataset = GeneratorDataset(
            rows,
            list(INPUT_COLUMNS),
            shuffle=bool(dataset_config["data_loader"].get("shuffle", True)),
            num_shards=num_shards,
            shard_id=shard_id,
            num_parallel_workers=dataset_config.get("num_parallel_workers", 1),
            python_multiprocessing=False,  # in this process, so that an InputError can be handed on whole
        ).batch(batch_size, drop_remainder=drop_remainder)
        if drop_remainder:  # uneven shards are filled up by repetition: leave those out, too
            dataset = dataset.take(_whole_batches(len(rows), batch_size * (num_shards or 1)))
        dataset = dataset.repeat(dataset_config.get("repeat", 1))
        dataset.rows = rows
        return dataset


class Rows:
    """Random access to the rows of one-conversation batches, without their batch dimension.

    MindSpore wraps what is raised here into a RuntimeError with a traceback for its message; ``error`` keeps it whole.
    """

    def __init__(self, samples: Sequence[Sample], row: Callable[[Sample], Mapping[str, np.ndarray]]):
        self._samples = samples
        self._row = row
        self.error: InputError | None = None

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: int) -> Row:
        try:
            row = self._row(self._samples[index])
        except InputError as error:
            self.error = error
            raise
        return tuple(row[column] for column in INPUT_COLUMNS)


def _read_rows(config: Mapping[str, Any], model: ModelSection) -> Rows:
    """The conversations of the annotation file, encoded; their images are read when a row is asked for."""
    loader, transform = config["data_loader"], config["modal_to_text_transform"]
    _check_type("data_loader", loader["type"], _LOADER)
    _check_type("modal_to_text_transform", transform["type"], _TRANSFORM)
    _check_columns("net_input_columns", config.get("net_input_columns", INPUT_COLUMNS))
    mean, std = _normalisation(config.get("modal_content_transforms"))
    tokenizer = build_tokenizer(config["tokenizer"], default_args={"num_queries": model.config.num_queries})
    template = build_transforms(
        transform["model_transform_template"],
        default_args={
            "tokenizer": tokenizer, "model": model, "max_length": transform["max_length"], "mean": mean, "std": std,
        },
    )  # fmt: skip
    _check_columns("output_columns", template.output_columns)
    conversations = read_conversations(loader["annotation_file"])[: loader.get("num_samples")]
    return Rows(template.samples(conversations), template.row)


def _whole_batches(rows: int, joint_batch: int) -> int:
    batches, rest = divmod(rows, joint_batch)
    if not batches:
        raise InputError(f"train_dataset: {rows} conversations do not fill one batch of {joint_batch}")
    if rest:
        logger.warning("an epoch leaves out %d of %d conversations: they fill no batch of %d", rest, rows, joint_batch)
    return batches


def _normalisation(steps: Sequence[Mapping[str, Any]] | None) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """mean and std of ``modal_content_transforms``, which are done in one go when an image is read."""
    normalised = [step.get("type") for step in steps or ()] == _PIXEL_STEPS and {"mean", "std"} <= steps[1].keys()
    if not normalised or steps[1].get("is_hwc"):
        raise InputError(
            "train_dataset.modal_content_transforms: expected "
            f"{' and '.join(_PIXEL_STEPS)} with mean, std, is_hwc: False"
        )
    return tuple(steps[1]["mean"]), tuple(steps[1]["std"])


def _check_columns(key: str, columns: Sequence[str]) -> None:
    if sorted(columns) != sorted(INPUT_COLUMNS):
        raise InputError(f"train_dataset: {key}: expected {', '.join(INPUT_COLUMNS)}; found {', '.join(columns)}")


def _check_type(key: str, found: str, expected: str) -> None:
    if found != expected:
        raise InputError(f"train_dataset.{key}.type: {found!r} is not supported; it is {expected}")
