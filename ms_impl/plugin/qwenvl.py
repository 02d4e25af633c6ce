"""Qwen-VL's classes under the names that its YAMLs have for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from mindformers.tools.register import MindFormerModuleType, MindFormerRegister

from ms_impl import families
from ms_impl.data.batch import Sample, collate
from ms_impl.data.conversations import ConversationEncoder, ConversationFormat
from ms_impl.data.images import load_pixels
from ms_impl.data.sample_reader import SampleReader
from ms_impl.errors import InputError
from ms_impl.plugin.model import ModelSection, TrainerModel
from ms_impl.qwenvl.processor import QwenVLProcessor
from ms_impl.qwenvl.tokenizer import QwenVLTokenizer
from ms_impl.train.feed import INPUT_COLUMNS

MindFormerRegister.register_cls(QwenVLTokenizer, MindFormerModuleType.TOKENIZER)


@MindFormerRegister.register(MindFormerModuleType.CONFIG)
class QwenVLConfig(ModelSection):
    """``model.model_config``."""

    family = families.get("qwenvl")


@MindFormerRegister.register(MindFormerModuleType.MODELS)
class QwenVL(TrainerModel):
    """``model.arch``."""


@MindFormerRegister.register(MindFormerModuleType.TRANSFORMS)
class QwenVLContentTransformTemplate:
    """``modal_to_text_transform.model_transform_template``: conversations to samples, rows of samples to arrays.

    ``modal_content_padding_size`` is the number of image slots a row; None: as many as any row of the data needs.
    Images lie in ``dataset_dir``; a path that leaves it through ``..`` is refused unless ``allow_outside_dataset_dir``.
    """

    def __init__(
        self,
        tokenizer: QwenVLTokenizer,
        model: ModelSection,
        max_length: int,
        mean: Sequence[float],
        std: Sequence[float],
        output_columns: Sequence[str] = INPUT_COLUMNS,
        mode: str = "train",
        dataset_dir: str = "",
        allow_outside_dataset_dir: bool = False,
        modal_content_padding_size: int | None = None,
        image_size: int | None = None,
        **style: Any,
    ):
        self.output_columns = output_columns
        self.image_slots = modal_content_padding_size
        self._processor = QwenVLProcessor(tokenizer, model.config)
        encoder = ConversationEncoder(tokenizer, max_length, ConversationFormat(**style))
        self.reader = SampleReader(encoder, dataset_dir, allow_outside_dataset_dir, modal_content_padding_size)
        self._normalisation = mean, std
        size = model.config.visual.image_size
        if image_size not in (None, size):
            raise InputError(f"image_size is {image_size}, but the model's configuration says {size}")
        if mode != "train":
            raise InputError(f"mode: {mode!r} is not supported; it is 'train'")

    def collate(self, rows: Sequence[Sample], length: int, image_slots: int) -> Mapping[str, np.ndarray]:
        """The arrays of a batch of rows padded to ``length``, images read."""
        size = self._processor.config.visual.image_size
        mean, std = self._normalisation
        return collate(
            rows,
            pad_id=self._processor.tokenizer.pad_id,
            num_queries=self._processor.config.num_queries,
            image_size=size,
            load_pixels=lambda path, out: load_pixels(path, size, mean, std, out),
            length=length,
            image_slots=image_slots,
        )
