"""Everything on the host's side of Qwen-VL: conversations and images in, the model's input arrays out. numpy only."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from PIL import Image

from ms_impl.data import image_cost
from ms_impl.data.box_drawing import draw_boxes
from ms_impl.data.chatml import SYSTEM_MESSAGE, answer_tokens
from ms_impl.data.conversations import check_answers, spoken
from ms_impl.data.dialogue import Dialogue, Turn, paired
from ms_impl.data.images import load_pixels, read_image, resolve_path, to_pixels
from ms_impl.data.media_sources import IMAGE
from ms_impl.data.memory_images import MemoryImages
from ms_impl.data.objects import fill_objects
from ms_impl.data.records import Conversation
from ms_impl.data.sample import TOKENS, ArraySpec, MediaKind, Outline, Placed, Sample, Sizes
from ms_impl.data.tags import inline_paths, shorten
from ms_impl.data.template import Query
from ms_impl.errors import InputError
from ms_impl.qwenvl.boxes import BOXES
from ms_impl.qwenvl.config import QwenVLConfig
from ms_impl.qwenvl.labels import check_boxes, labelled
from ms_impl.qwenvl.messages import messages
from ms_impl.qwenvl.options import QwenVLOptions, read_options
from ms_impl.qwenvl.prompt import (
    CHATML,
    MAX_WINDOW_SIZE,
    History,
    Unshowable,
    from_list_format,
    latest_image,
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


class QwenVLTemplate:
    """The ``Template`` of one model: see there. Raises InputError if the vocabulary is not the model's."""

    kinds: ClassVar[tuple[MediaKind, ...]] = (IMAGES,)
    takes: ClassVar[tuple[str, ...]] = (IMAGE,)
    kept_options: ClassVar[tuple[str, ...]] = ()
    position_axes: ClassVar[int] = 1
    padding_shifts_positions: ClassVar[bool] = True
    needs: ClassVar[tuple[str, ...]] = (TOKENS, "images")
    largest_of: ClassVar[tuple[str, ...]] = ()
    request_options: ClassVar[tuple[str, ...]] = ()
    Options: ClassVar[type] = QwenVLOptions
    boxes = BOXES
    think_end: ClassVar[str | None] = None

    def __init__(self, tokenizer: QwenVLTokenizer, config: QwenVLConfig, max_length: int | None = None, **options: Any):
        self.tokenizer = tokenizer
        self.config = config
        self.max_length = config.max_position_embeddings if max_length is None else max_length
        self.options = read_options(options)
        self.memory = MemoryImages()
        self.counts: Counter[str] = Counter()
        self.examples: dict[str, str] = {}
        self._check()

    @classmethod
    def from_pretrained(
        cls,
        directory: str | os.PathLike,
        config: QwenVLConfig | None = None,
        max_length: int | None = None,
        **options: Any,
    ) -> QwenVLTemplate:
        """From the ``*.tiktoken`` file, and config.json unless ``config`` is given, of a checkpoint directory.

        Instead of the directory the vocabulary file may be given.
        """
        path = Path(directory)
        config = config or QwenVLConfig.from_file(path if path.is_dir() else path.parent)
        vocabulary = _vocabulary_in(path) if path.is_dir() else path
        return cls(QwenVLTokenizer(vocabulary, config.num_queries), config, max_length, **options)

    def with_options(self, **options: Any) -> QwenVLTemplate:
        """The same with some options changed; images in memory are shared."""
        own = {field.name: getattr(self.options, field.name) for field in dataclasses.fields(self.options)}
        changed = QwenVLTemplate(self.tokenizer, self.config, self.max_length, **{**own, **options})
        changed.memory = self.memory
        return changed

    @cached_property
    def fixed_sizes(self) -> Sizes:
        """Pixels of an image's side, and features of an image."""
        return {"side": self.config.visual.image_size, "queries": self.config.num_queries}

    @property
    def capacities(self) -> Sizes:
        """The images of a row, where ``modal_content_padding_size`` says it."""
        size = self.options.modal_content_padding_size
        return {} if size is None else {"images": size}

    def fingerprint(self) -> str:
        """sha256 of vocabulary, configuration and options."""
        known = [self.config.to_dict(), dataclasses.asdict(self.options), self.max_length]
        digest = hashlib.sha256(json.dumps(known, sort_keys=True, default=list).encode())
        digest.update(Path(self.tokenizer.vocab_file).read_bytes())
        return digest.hexdigest()

    # From a record to arrays.

    def sample(self, conversation: Conversation) -> Sample:
        """The whole sample of a conversation; its images are not looked for.

        Raises InputError naming the record: an unknown role, no user turn, no answer or an empty one, a bad image tag,
        or a box outside the image.
        """

        def count(kind: str) -> None:
            self._count(kind, conversation.record)

        try:
            system, turns = messages(self._with_boxes(conversation), self.options)
            turns = spoken(turns, count)
            ids, labels = labelled(self.tokenizer, system, turns)
            media = self._images(ids, conversation.record)
            check_answers(turns)
            check_boxes(turns, count)
        except InputError as error:
            raise InputError(f"{conversation.record}: {error}") from error
        return self._trained(_sample(ids, media, conversation.record), np.array(labels, np.int32))

    def cut(self, sample: Sample, max_length: int) -> Sample:
        """The first ``max_length`` tokens. Raises InputError, naming the record, for an image cut in two."""
        if len(sample) <= max_length:
            return sample
        try:
            media = tuple(image for image in sample.media if self._is_kept(image, max_length))
        except InputError as error:
            raise InputError(f"{sample.record}: {error}") from error
        self._count(f"cut off at {max_length} tokens", sample.record)
        cut = _sample(sample.input_ids[:max_length], media, sample.record)
        return cut if sample.labels is None else self._trained(cut, sample.labels[:max_length])

    def find_media(self, sample: Sample) -> Sample:
        """The sample with its images' files. Raises InputError, naming the record, for one that is not there."""
        try:
            return replace(sample, media=self._files(sample.media))
        except InputError as error:
            raise InputError(f"{sample.record}: {error}") from error

    def files(self, medium: Placed) -> tuple[str, ...]:
        """The image's file, unless it is in memory."""
        return (medium.source,) if isinstance(medium.source, str) else ()

    def check_medium(self, medium: Placed) -> None:
        """Decode an image to see that it can be. Raises InputError."""
        if not isinstance(medium.source, Image.Image):
            read_image(medium.source)

    def largest(self, outline: Outline) -> Mapping[str, int]:
        """Nothing: all images have one size."""
        return {}

    def need(self, outline: Outline, sizes: Sizes) -> Mapping[str, int]:
        """Tokens and images."""
        return {TOKENS: outline.tokens, "images": len(outline.media)}

    def load(self, media: Sequence[Placed], out: Mapping[str, np.ndarray], offset: int = 0) -> None:
        """Read the images of a row into ``images`` [M, 3, S, S], and their columns into ``image_context_pos`` [M, Q].

        Raises InputError naming the image's record.
        """
        for number, image in enumerate(media):
            try:
                self._load_pixels(image.source, out["images"][number])
            except InputError as error:
                raise InputError(f"{image.record}: {error}") from error
            out["image_context_pos"][number] = image.columns + offset

    def pixels(self, sources: Sequence[str | Image.Image], dataset_dir: str | os.PathLike | None = None) -> np.ndarray:
        """Pixel values float32 [N, 3, S, S] of N images; ``dataset_dir`` stands before relative paths."""
        size = self.config.visual.image_size
        values = np.empty((len(sources), 3, size, size), dtype=np.float32)
        for row, source in zip(values, sources):
            self._load_pixels(resolve_path(source, dataset_dir) if isinstance(source, str) else source, row)
        return values

    # A conversation with a model.

    def dialogue(self, conversation: Conversation) -> Dialogue:
        """The turns of a record, images inline. Raises InputError as ``messages`` does."""
        system, turns = messages(self._with_boxes(conversation), self.options)
        roles, texts = [turn.role for turn in turns], [turn.content for turn in turns]
        if len(turns) % 2 == 0 and turns:
            texts[-1] = turns[-1].text  # the right answer has no prompt before it
        pairs = paired(roles, texts)
        shown = [path for text in texts[: 2 * len(pairs) - 1] for path in inline_paths(text)]
        return Dialogue(system, pairs, tuple(shown))

    def encode_prompt(self, text: str) -> Sample:
        """Sample of a raw prompt (base model); every special token in it counts."""
        return self._prompt(self.tokenizer.encode(text))

    def encode_chat(
        self,
        query: str,
        history: History | None = None,
        system: str = SYSTEM_MESSAGE,
        max_window_size: int = MAX_WINDOW_SIZE,
        unshowable: Unshowable | None = None,
    ) -> Sample:
        """Sample of a ChatML conversation (chat model) up to where the answer begins; see ``make_context``."""
        return self._prompt(make_context(self.tokenizer, query, history, system, max_window_size, unshowable))

    def encode_turn(
        self,
        query: Query,
        history: Sequence[Turn] | None,
        system: str | None,
        generation: Any,
        dataset_dir: str | os.PathLike | None = None,
        lenient: bool = False,
    ) -> Sample:
        """Sample of the next turn; ``generation`` has ``chat_format`` and ``max_window_size``.

        Raises InputError for a history where the format has none.
        """
        text = self.query_text(query)
        if generation.chat_format == CHATML:
            unshowable = (lambda path: self.unshowable(path, dataset_dir)) if lenient else None
            system = SYSTEM_MESSAGE if system is None else system
            return self.encode_chat(text, history, system, generation.max_window_size, unshowable)
        if turns_of(history):
            raise InputError(
                f"the {generation.chat_format} format of base models has no history; start anew or use a chat model"
            )
        return self.encode_prompt(text)

    def encode_answer(self, text: str, chat_format: str) -> list[int]:
        """Token ids of an answer as it follows a turn's prompt; in the raw format of base models after a space."""
        return self.tokenizer.encode_message(text) if chat_format == CHATML else self.tokenizer.encode(f" {text}")

    def stop_words(self, chat_format: str) -> list[list[int]]:
        """The token sequences that end an answer; the end of text does in every format."""
        end_of_text = [self.tokenizer.eod_id]
        words = stop_words(self.tokenizer, chat_format)
        return words if end_of_text in words else [*words, end_of_text]

    def policy(self, sample: Sample, generation: Any) -> None:
        """None: every token is sampled."""

    def query_text(self, query: Query) -> str:
        """The text of a query that is text already or in the list format.

        An image in memory, ``{"image": PIL image}``, is kept with this template, and the text has a name for it.
        """
        return query if isinstance(query, str) else from_list_format(query, self.memory.keep)

    def unshowable(self, path: str, dataset_dir: str | os.PathLike | None = None) -> str | None:
        """Why an image cannot be shown to the model; None if it can."""
        try:
            self.read_image(path, dataset_dir)
        except InputError as error:
            return str(error)
        return None

    def read_image(self, path: str, dataset_dir: str | os.PathLike | None = None) -> Image.Image:
        """The image (RGB) that a prompt mentions: one in memory, or a file. Raises InputError if it cannot be read."""
        kept = self.memory.get(path)
        return read_image(resolve_path(path, dataset_dir)) if kept is None else kept

    def sources_in(self, text: str) -> tuple[str, ...]:
        """The images that a text shows. Raises InputError for a tag that is not closed."""
        return tuple(inline_paths(text))

    def draw_boxes(
        self, history: Sequence[Turn], dataset_dir: str | os.PathLike | None = None, font: str | Path | None = None
    ) -> Image.Image | None:
        """The latest image of a conversation with the boxes of its last answer; None if there is no such thing.

        ``font`` is a font file for the labels; without it, one that has their characters is looked for.
        """
        turns = turns_of(history)
        if not turns:
            raise InputError("history: no turn, so no answer whose boxes could be drawn")
        query, answer = turns[-1]
        path = latest_image(query, turns[:-1])
        return draw_boxes(self.read_image(path, dataset_dir), answer, self.boxes, font) if path and answer else None

    def _check(self) -> None:
        """Raise InputError for a vocabulary of another model, and options that are wrong."""
        tokenizer, config, options = self.tokenizer, self.config, self.options
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
        if isinstance(self.max_length, bool) or not isinstance(self.max_length, int) or self.max_length < 1:
            raise InputError(f"max_length must be a positive whole number, not {self.max_length!r}")
        options.roles()
        if options.image_size not in (None, config.visual.image_size):
            size = config.visual.image_size
            raise InputError(f"image_size is {options.image_size}, but the model's configuration says {size}")
        if options.mode != "train":
            raise InputError(f"mode: {options.mode!r} is not supported; it is 'train'")

    def _with_boxes(self, conversation: Conversation) -> Conversation:
        """The conversation with its objects written into the text. Raises InputError for a box outside its image."""
        if conversation.objects is None:
            return conversation
        images = [str(medium.source) for medium in conversation.media if medium.kind == IMAGE]
        texts = [conversation.system or "", *(turn.text for turn in conversation.turns)]
        system, *texts = fill_objects(texts, conversation.objects, self.boxes, lambda n: self._file_size(images[n]))
        turns = tuple(replace(turn, text=text) for turn, text in zip(conversation.turns, texts))
        return replace(conversation, system=conversation.system and system, turns=turns, objects=None)

    def _file_size(self, path: str) -> tuple[int, int]:
        file = resolve_path(path, self.options.dataset_dir, self.options.allow_outside_dataset_dir)
        with image_cost.opened(file) as image:
            return image.size

    def _trained(self, sample: Sample, labels: np.ndarray) -> Sample:
        count = answer_tokens(self.tokenizer, sample.input_ids, labels)
        return replace(sample, labels=labels, answer_tokens=count)

    def _prompt(self, ids: list[int]) -> Sample:
        limit = self.config.max_position_embeddings
        if len(ids) > limit:
            raise InputError(f"the prompt has {len(ids)} tokens, the model takes at most {limit}; shorten it")
        return _sample(ids, self._images(ids))

    def _images(self, ids: Sequence[int], record: str = "") -> tuple[Placed, ...]:
        """The images of a token sequence: those in memory, or the paths as they are written."""
        slots = np.arange(self.tokenizer.num_queries, dtype=np.int32)
        return tuple(
            Placed(IMAGES.name, self._source(image.path), slots + image.column, record=record)
            for image in self.tokenizer.find_images(ids)
        )

    def _source(self, path: str) -> str | Image.Image:
        kept = self.memory.get(path)
        return path if kept is None else kept

    def _files(self, images: Sequence[Placed]) -> tuple[Placed, ...]:
        """The images with their files as sources. Raises InputError for too many, or one that is not there."""
        slots = self.options.modal_content_padding_size
        if slots is not None and len(images) > slots:
            raise InputError(f"{len(images)} images do not fit in {slots} image slots a row")
        outside = self.options.allow_outside_dataset_dir
        files = [resolve_path(image.source, self.options.dataset_dir, outside) for image in images]
        for file in files:
            if not os.path.isfile(file):  # unlike Path.is_file it takes names of any length
                found = "is not a file" if os.path.exists(file) else "does not exist"
                raise InputError(f"image '{shorten(str(file), 400)}' {found}")
        return tuple(replace(image, source=str(file)) for image, file in zip(images, files))

    def _is_kept(self, image: Placed, max_length: int) -> bool:
        """Whether an image lies within ``max_length``, and not beyond; InputError if it lies across."""
        start, end = int(image.columns[0]) - 1, int(image.columns[-1]) + 2
        if start < max_length < end:
            cut = f"image '{image.source}' (columns {start} to {end - 1})"
            raise InputError(f"max_length {max_length} cuts {cut}; raise it or shorten the conversation")
        return end <= max_length

    def _load_pixels(self, source: str | os.PathLike | Image.Image, out: np.ndarray) -> None:
        size, mean, std = self.config.visual.image_size, self.options.mean, self.options.std
        if isinstance(source, Image.Image):
            to_pixels(source.resize((size, size), Image.Resampling.BICUBIC), mean, std, out)
        else:
            load_pixels(resolve_path(os.fspath(source)), size, mean, std, out=out)

    def _count(self, kind: str, record: str) -> None:
        self.counts[kind] += 1
        self.examples.setdefault(kind, record)


def _sample(ids: Sequence[int] | np.ndarray, media: tuple[Placed, ...], record: str = "") -> Sample:
    """A sample without labels; positions count the tokens."""
    return Sample(np.array(ids, np.int32), np.arange(len(ids), dtype=np.int32), None, None, len(ids), media, record)


def _vocabulary_in(directory: Path) -> Path:
    files = sorted(directory.glob("*.tiktoken"))
    if len(files) != 1:
        found = ", ".join(file.name for file in files) or "none"
        raise InputError(f"{directory}: expected one vocabulary file (qwen.tiktoken), found {found}")
    return files[0]
