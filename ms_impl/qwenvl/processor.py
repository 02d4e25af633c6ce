"""Everything on the host's side of Qwen-VL: prompts and images in, the model's input arrays out. numpy only."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ms_impl.data.batch import PaddingSide, Sample, collate
from ms_impl.data.box_drawing import draw_boxes
from ms_impl.data.chatml import SYSTEM_MESSAGE
from ms_impl.data.images import CLIP_MEAN, CLIP_STD, load_pixels, read_image, resolve_path, to_pixels
from ms_impl.data.memory_images import MemoryImages
from ms_impl.data.sample import ArraySpec, MediaKind
from ms_impl.errors import InputError
from ms_impl.qwenvl.boxes import BOXES
from ms_impl.qwenvl.config import QwenVLConfig
from ms_impl.qwenvl.prompt import (
    CHATML,
    MAX_WINDOW_SIZE,
    History,
    Unshowable,
    from_list_format,
    latest_picture,
    make_context,
    stop_words,
    turns_of,
)
from ms_impl.qwenvl.tokenizer import IMAGE_START, QwenVLTokenizer

IMAGES = MediaKind(
    "images",
    arrays=(ArraySpec("images", np.float32, ("images", 3, "side", "side")),),
    columns=ArraySpec("image_context_pos", np.int32, ("images", "queries"), padding=None),
    encode="encode_images",
)


class QwenVLProcessor:
    """Tokenizer and image reader of one model. Raises InputError if the vocabulary is not the model's."""

    boxes = BOXES
    kinds = (IMAGES,)
    padding_shifts_positions = True

    def __init__(self, tokenizer: QwenVLTokenizer, config: QwenVLConfig):
        if tokenizer.image_start_id != config.image_start_id:
            raise InputError(
                f"{tokenizer.vocab_file}: wrong vocabulary file: its {IMAGE_START} has id {tokenizer.image_start_id}, "
                f"the model's configuration says {config.image_start_id} (visual.image_start_id)"
            )
        if tokenizer.num_queries != config.num_queries:
            raise InputError(
                f"the tokenizer has {tokenizer.num_queries} slots an image, the model {config.num_queries} "
                "(visual.n_queries)"
            )
        self.tokenizer = tokenizer
        self.config = config
        self.memory = MemoryImages()

    @classmethod
    def from_pretrained(cls, directory: str | os.PathLike, config: QwenVLConfig | None = None) -> "QwenVLProcessor":
        """Read the ``*.tiktoken`` file, and config.json unless ``config`` is given, of a checkpoint directory."""
        config = config or QwenVLConfig.from_file(directory)
        return cls.from_vocabulary(_vocabulary_in(Path(directory)), config)

    @classmethod
    def from_vocabulary(cls, vocab_file: str | os.PathLike, config: QwenVLConfig) -> "QwenVLProcessor":
        """With a vocabulary file that may lie anywhere."""
        return cls(QwenVLTokenizer(vocab_file, config.num_queries), config)

    def pixels(
        self,
        paths: Sequence[str],
        dataset_dir: str | os.PathLike | None = None,
        mean: Sequence[float] = CLIP_MEAN,
        std: Sequence[float] = CLIP_STD,
    ) -> np.ndarray:
        """Pixel values float32 [N, 3, S, S] of N image files; ``dataset_dir`` stands before relative paths."""
        size = self.config.visual.image_size
        values = np.empty((len(paths), 3, size, size), dtype=np.float32)
        for row, path in zip(values, paths):
            self._load_pixels(path, dataset_dir, row, mean, std)
        return values

    def encode_prompt(self, text: str) -> dict[str, Any]:
        """Sample of a raw prompt (base model); every special token in it counts."""
        return self._sample(self.tokenizer.encode(text))

    def encode_chat(
        self,
        query: str,
        history: History | None = None,
        system: str = SYSTEM_MESSAGE,
        max_window_size: int = MAX_WINDOW_SIZE,
        unshowable: Unshowable | None = None,
    ) -> dict[str, Any]:
        """Sample of a ChatML conversation (chat model) up to where the answer begins; see ``make_context``."""
        return self._sample(make_context(self.tokenizer, query, history, system, max_window_size, unshowable))

    def encode_turn(
        self,
        query: str,
        history: History | None,
        system: str,
        chat_format: str,
        max_window_size: int,
        unshowable: Unshowable | None = None,
    ) -> dict[str, Any]:
        """Sample of the next turn in ``chat_format``. Raises InputError for a history where the format has none."""
        if chat_format == CHATML:
            return self.encode_chat(query, history, system, max_window_size, unshowable)
        if turns_of(history):
            raise InputError(f"the {chat_format} format of base models has no history; start anew or use a chat model")
        return self.encode_prompt(query)

    def unshowable(self, path: str, dataset_dir: str | os.PathLike | None = None) -> str | None:
        """Why an image cannot be shown to the model; None if it can."""
        try:
            self.read_image(path, dataset_dir)
        except InputError as error:
            return str(error)
        return None

    def encode_answer(self, text: str, chat_format: str) -> list[int]:
        """Token ids of an answer as it follows a turn's prompt; in the raw format of base models after a space."""
        return self.tokenizer.encode_message(text) if chat_format == CHATML else self.tokenizer.encode(f" {text}")

    def query_text(self, query: str | Sequence[Mapping[str, Any]]) -> str:
        """The text of a query that is text already or in the list format.

        An image in memory, ``{"image": PIL image}``, is kept with this processor, and the text has a name for it.
        """
        return query if isinstance(query, str) else from_list_format(query, self.memory.keep)

    def read_image(self, path: str, dataset_dir: str | os.PathLike | None = None) -> Image.Image:
        """The image (RGB) that a prompt mentions: one in memory, or a file. Raises InputError if it cannot be read."""
        kept = self.memory.get(path)
        return read_image(resolve_path(path, dataset_dir)) if kept is None else kept

    def stop_words(self, chat_format: str) -> list[list[int]]:
        """The token sequences that end an answer; the end of text does in every format."""
        end_of_text = [self.tokenizer.eod_id]
        words = stop_words(self.tokenizer, chat_format)
        return words if end_of_text in words else [*words, end_of_text]

    def policy(self, sample: Sample, generation: Any) -> None:
        """None: every token is sampled."""

    def draw_boxes(
        self, history: History, dataset_dir: str | os.PathLike | None = None, font: str | os.PathLike | None = None
    ) -> Image.Image | None:
        """The latest picture of a conversation with the boxes of its last answer; None if there is no such thing.

        ``font`` is a font file for the labels; without it, one that has their characters is looked for.
        """
        turns = turns_of(history)
        if not turns:
            raise InputError("history: no turn, so no answer whose boxes could be drawn")
        query, answer = turns[-1]
        path = latest_picture(query, turns[:-1])
        return draw_boxes(self.read_image(path, dataset_dir), answer, self.boxes, font) if path and answer else None

    def collate(
        self,
        samples: Sequence[Sample],
        padding_side: PaddingSide = "right",
        length: int | None = None,
        image_slots: int | None = None,
        dataset_dir: str | os.PathLike | None = None,
    ) -> dict[str, np.ndarray | None]:
        """One batch of samples, images read: see ``ms_impl.data.batch.collate`` for its arrays and errors."""
        size = self.config.visual.image_size
        return collate(
            samples,
            pad_id=self.tokenizer.pad_id,
            num_queries=self.config.num_queries,
            image_size=size,
            load_pixels=lambda path, out: self._load_pixels(path, dataset_dir, out),
            padding_side=padding_side,
            length=length,
            image_slots=image_slots,
        )

    def _load_pixels(
        self,
        path: str,
        dataset_dir: str | os.PathLike | None,
        out: np.ndarray,
        mean: Sequence[float] = CLIP_MEAN,
        std: Sequence[float] = CLIP_STD,
    ) -> None:
        size = self.config.visual.image_size
        if (kept := self.memory.get(path)) is None:
            load_pixels(resolve_path(path, dataset_dir), size, mean, std, out=out)
        else:
            to_pixels(kept.resize((size, size), Image.Resampling.BICUBIC), mean, std, out)

    def _sample(self, ids: list[int]) -> dict[str, Any]:
        limit = self.config.max_position_embeddings
        if len(ids) > limit:
            raise InputError(f"the prompt has {len(ids)} tokens, the model takes at most {limit}; shorten it")
        images = self.tokenizer.find_images(ids)
        return {
            "input_ids": np.array(ids, dtype=np.int32),
            "image_paths": [image.path for image in images],
            "image_columns": [image.column for image in images],
        }


def _vocabulary_in(directory: Path) -> Path:
    files = sorted(directory.glob("*.tiktoken"))
    if len(files) != 1:
        found = ", ".join(file.name for file in files) or "none"
        raise InputError(f"{directory}: expected one vocabulary file (qwen.tiktoken), found {found}")
    return files[0]
