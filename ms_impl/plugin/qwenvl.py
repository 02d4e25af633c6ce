"""Qwen-VL's classes under the names that its YAMLs have for them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from mindformers.tools.register import MindFormerModuleType, MindFormerRegister

from ms_impl import families
from ms_impl.data.batch import Sample, collate
from ms_impl.data.conversations import Conversation, ConversationEncoder, ConversationFormat
from ms_impl.data.images import resolve_path
from ms_impl.errors import InputError
from ms_impl.plugin.model import INPUT_COLUMNS, ModelSection, TrainerModel
from ms_impl.qwenvl.processor import QwenVLProcessor
from ms_impl.qwenvl.tokenizer import QwenVLTokenizer

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
    """``modal_to_text_transform.model_transform_template``: conversations to samples, samples to rows.

    ``modal_content_padding_size`` is the number of image slots a row. Images lie in ``dataset_dir``.
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
        modal_content_padding_size: int = 1,
        image_size: int | None = None,
        **style: Any,
    ):
        self.output_columns = output_columns
        self._processor = QwenVLProcessor(tokenizer, model.config)
        self._encoder = ConversationEncoder(tokenizer, max_length, ConversationFormat(**style))
        self._dataset_dir = dataset_dir
        self._image_slots = modal_content_padding_size
        self._normalisation = mean, std
        size = model.config.visual.image_size
        if image_size not in (None, size):
            raise InputError(f"image_size is {image_size}, but the model's configuration says {size}")
        if mode != "train":
            raise InputError(f"mode: {mode!r} is not supported; it is 'train'")

    def samples(self, conversations: Sequence[Conversation]) -> list[Sample]:
        """The samples of all conversations; raises InputError for one that has a fault or an image that is missing."""
        samples = self._encoder.encode_all(conversations)
        for sample in samples:
            missing = [path for path in sample["image_paths"] if not resolve_path(path, self._dataset_dir).is_file()]
            if missing:
                raise InputError(f"{sample['record']}: there is no image file {missing[0]!r} in {self._dataset_dir!r}")
        return samples

    def row(self, sample: Sample) -> dict[str, np.ndarray]:
        """The arrays of one sample padded to ``max_length``, without batch dimension."""
        batch = collate(
            [sample],
            pad_id=self._processor.tokenizer.pad_id,
            num_queries=self._processor.config.num_queries,
            load_pixels=lambda paths: self._processor.pixels(paths, self._dataset_dir, *self._normalisation),
            length=self._encoder.max_length,
            image_slots=self._image_slots,
        )
        return {column: batch[column][0] for column in INPUT_COLUMNS}
