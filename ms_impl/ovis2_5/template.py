"""Everything on the host's side of Ovis2.5: conversations, images and videos in, the model's arrays out. numpy only."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from PIL import Image

from ms_impl.data.box_drawing import draw_boxes
from ms_impl.data.boxes import Size
from ms_impl.data.dialogue import Dialogue, Turn
from ms_impl.data.images import resolve_path
from ms_impl.data.inline_images import as_media
from ms_impl.data.media_sources import IMAGE, VIDEO
from ms_impl.data.memory_images import MemoryImages
from ms_impl.data.records import Conversation
from ms_impl.data.sample import IGNORED, TOKENS, ArraySpec, MediaKind, Outline, Placed, Sample, Sizes
from ms_impl.data.template import Query, TokenPolicy
from ms_impl.errors import InputError, listed, quote
from ms_impl.ovis2_5.boxes import BOXES
from ms_impl.ovis2_5.config import INDICATORS, Ovis2_5Config
from ms_impl.ovis2_5.conversation import chat_of, check_answers, loss_scale, messages, shown
from ms_impl.ovis2_5.formatter import (
    ANSWER,
    ATOM_ID,
    EMPTY_THINKING,
    HUMAN,
    IMAGE_INDICATORS,
    SYSTEM,
    VIDEO_INDICATORS,
    Formatted,
    Formatter,
    Message,
    cut_length,
    expand_visuals,
)
from ms_impl.ovis2_5.patches import Grid, fill_rows, row_length, rows_needed
from ms_impl.ovis2_5.patches import Visual as Patches
from ms_impl.ovis2_5.preprocessing import (
    PixelLimits,
    PixelRule,
    chosen_frames,
    evenly,
    patch_grid,
    released_limits,
    to_patches,
)
from ms_impl.ovis2_5.queries import Shown, query_text, shown_in, without_placeholders
from ms_impl.ovis2_5.thinking import EARLY_STOP, THINK_END, NewTokens, ThinkingBudget, check_budget, without_thinking
from ms_impl.ovis2_5.tokenizer import Ovis2_5Tokenizer
from ms_impl.ovis2_5.visuals import StillImage, Visual, choose_frames

PATCH_ROWS, PATCHES, UNITS, MARKERS = "patch_rows", "patches_a_row", "units_a_row", "indicators"  # sizes
VISUALS = MediaKind(
    "visuals",
    arrays=(
        ArraySpec("patches", np.float32, (PATCH_ROWS, PATCHES, "patch_features")),
        ArraySpec("patch_segments", np.int32, (PATCH_ROWS, PATCHES, 2)),
        ArraySpec("patch_places", np.int32, (PATCH_ROWS, PATCHES, 2)),
        ArraySpec("patch_taps", np.float32, (PATCH_ROWS, PATCHES, 2, "position_side")),
    ),
    columns=ArraySpec("patch_columns", np.int32, (PATCH_ROWS, UNITS), padding=None),
    encode="encode_visuals",
)
INDICATOR_ROWS = MediaKind(
    "indicators",
    arrays=(ArraySpec("indicator_ids", np.int32, (MARKERS,)),),
    columns=ArraySpec("indicator_columns", np.int32, (MARKERS, 1), padding=None),
    encode="encode_indicators",
)
_VOCABULARY = ("tokenizer.json", "vocab.json", "merges.txt", "*.tiktoken")
Located = tuple[Visual, Grid]  # a visual, and the patches that it becomes
_KEPT = (
    *(field.name for field in dataclasses.fields(PixelLimits)), "min_frames", "max_frames", "num_frames",
)  # fmt: skip
_OVER_ALL = ("min_pixels", "max_pixels")  # options that may be left open
_WITH_EACH = {False: IMAGE_INDICATORS, True: VIDEO_INDICATORS}


@dataclass(frozen=True)
class Ovis2_5Options(PixelLimits):
    """What a YAML says of Ovis2.5's template, beside the limits of pixels.

    Images and videos lie in ``dataset_dir``; a path that leaves it through ``..`` is refused unless
    ``allow_outside_dataset_dir``. A conversation is cut at ``multimodal_max_length`` tokens, one without visuals at
    ``text_max_length``. In training a video shows ``min_frames`` to ``max_frames`` frames, to be answered about
    ``num_frames``.
    """

    dataset_dir: str = ""
    allow_outside_dataset_dir: bool = False
    multimodal_max_length: int = 8192
    text_max_length: int = 4096
    min_frames: int = 8
    max_frames: int = 8
    num_frames: int = 8

    def __post_init__(self) -> None:
        counts = ("multimodal_max_length", "text_max_length", "min_frames", "max_frames", "num_frames")
        for name in (*counts, *(field.name for field in dataclasses.fields(PixelLimits))):
            value, least = getattr(self, name), 1 if name in counts or name.startswith("single") else -(1 << 31)
            least = 0 if name in _OVER_ALL else least
            if type(value) is not int or value < least or value == 0 != least:
                raise InputError(f"{name} must be a whole number, {least} or more, not {quote(value)}")
        if self.min_pixels and self.max_pixels and self.min_pixels > self.max_pixels:
            raise InputError(f"min_pixels {self.min_pixels} is more than max_pixels {self.max_pixels}")
        if self.min_frames > self.max_frames:
            raise InputError(f"min_frames {self.min_frames} is more than max_frames {self.max_frames}")


class Ovis2_5Template:
    """The ``Template`` of one model: see there. Raises InputError if the vocabulary is not the model's."""

    kinds: ClassVar[tuple[MediaKind, ...]] = (VISUALS, INDICATOR_ROWS)
    takes: ClassVar[tuple[str, ...]] = (IMAGE, VIDEO)
    kept_options: ClassVar[tuple[str, ...]] = _KEPT
    position_axes: ClassVar[int] = 1
    padding_shifts_positions: ClassVar[bool] = False
    needs: ClassVar[tuple[str, ...]] = (TOKENS, PATCH_ROWS, MARKERS)
    largest_of: ClassVar[tuple[str, ...]] = (PATCHES, UNITS)
    request_options: ClassVar[tuple[str, ...]] = (
        "num_frames",
        *(field.name for field in dataclasses.fields(PixelLimits)),
    )
    Options: ClassVar[type] = Ovis2_5Options
    boxes = BOXES
    think_end: ClassVar[str | None] = THINK_END
    capacities: Sizes = {}

    def __init__(
        self, tokenizer: Ovis2_5Tokenizer, config: Ovis2_5Config, rule: PixelRule | None = None,
        max_length: int | None = None, **options: Any,
    ):  # fmt: skip
        self.tokenizer = tokenizer
        self.config = config
        self.rule = rule or PixelRule()
        self.options = _options(options)
        self.max_length = config.max_position_embeddings if max_length is None else max_length
        self.formatter = Formatter(tokenizer)
        self.memory = MemoryImages()
        self.counts: Counter[str] = Counter()
        self.examples: dict[str, str] = {}
        if type(self.max_length) is not int or self.max_length < 1:
            raise InputError(f"max_length must be a positive whole number, not {self.max_length!r}")
        if tokenizer.vocab_size > config.vocab_size:
            said = f"{tokenizer.vocab_size:,} tokens, but the model embeds {config.vocab_size:,}"
            raise InputError(f"{tokenizer.source}: wrong vocabulary: {said}")

    @classmethod
    def from_pretrained(
        cls,
        directory: str | os.PathLike,
        config: Ovis2_5Config | None = None,
        max_length: int | None = None,
        trained: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> Ovis2_5Template:
        """From the vocabulary, preprocessor_config.json and, unless ``config`` is given, config.json of a directory.

        Instead of the directory one of its files may be given. The options count before those ``trained``, and these
        before the limits of preprocessor_config.json.
        """
        path = Path(directory)
        path = path if path.is_dir() else path.parent
        config = config or Ovis2_5Config.from_file(path)
        rule = PixelRule.from_directory(path)
        told = {**released_limits(path), **(trained or {}), **options}
        return cls(Ovis2_5Tokenizer.from_pretrained(path), config, rule, max_length, **told)

    @cached_property
    def fixed_sizes(self) -> Sizes:
        """Numbers of a patch, and rows of learned positions along a side."""
        vision = self.config.vit_config
        return {"patch_features": vision.patch_features, "position_side": vision.position_side}

    def with_options(self, **options: Any) -> Ovis2_5Template:
        """The same with some options changed; images in memory are shared."""
        given = {**dataclasses.asdict(self.options), **options}
        changed = type(self)(self.tokenizer, self.config, self.rule, self.max_length, **given)
        changed.memory = self.memory
        return changed

    def fingerprint(self) -> str:
        """sha256 of vocabulary, configuration, pixel rule and options."""
        known = [
            self.config.to_dict(),
            dataclasses.asdict(self.rule),
            dataclasses.asdict(self.options),
            self.max_length,
        ]
        digest = hashlib.sha256(json.dumps(known, sort_keys=True, default=list).encode())
        for pattern in _VOCABULARY:
            for file in sorted(Path(self.tokenizer.source).parent.glob(pattern)):
                digest.update(file.read_bytes())
        return digest.hexdigest()

    # From a record to arrays.

    def sample(self, conversation: Conversation) -> Sample:
        """The whole sample of a conversation; its images and videos are opened for their sizes.

        Raises InputError naming the record: an unknown role, no answer or an empty one, images and a video together,
        several videos, a file that is not there, or an image too narrow.
        """
        try:
            conversation = as_media(conversation)
            choice = partial(chosen_frames, least=self.options.min_frames, most=self.options.max_frames)
            placed = self._visuals(shown(conversation), self.options.dataset_dir, choice, in_training=True)
            said = messages(conversation, lambda number: placed[number][0].probe()[:2])
            check_answers(said)
            sample = self._trained(self.formatter.conversation(said), placed, conversation.record)
        except InputError as error:
            raise InputError(f"{conversation.record}: {error}") from error
        assert sample.labels is not None
        return replace(sample, loss_scale=loss_scale(conversation, said, sample.labels))

    def cut(self, sample: Sample, max_length: int) -> Sample:
        """A sample of at most ``max_length`` tokens, and of the limit of its kind; no visual is cut.

        Where the cut would lie in a visual, all goes that stands after the last text before it, as in the original.
        """
        options = self.options
        limit = min(max_length, options.multimodal_max_length if sample.media else options.text_max_length)
        if len(sample) <= limit:
            return sample
        length = cut_length(self._with_atoms(sample), limit)
        media = tuple(medium for medium in sample.media if medium.columns.max(initial=-1) < length)
        self._count(f"cut off at {limit} tokens", sample.record)
        if len(media) < len(sample.media):
            self._count(f"visuals cut off at {limit} tokens", sample.record)
        kept = {name: getattr(sample, name)[:length] for name in ("input_ids", "position_ids")}
        for name in ("labels", "loss_scale"):
            value = getattr(sample, name)
            kept[name] = None if value is None else value[:length]
        cut = replace(sample, media=media, next_position=length, **kept)
        return replace(cut, answer_tokens=self._answer_tokens(cut))

    def find_media(self, sample: Sample) -> Sample:
        """The sample itself: its media were found when their sizes were."""
        return sample

    def files(self, medium: Placed) -> tuple[str, ...]:
        """The files of a visual; none of what is in memory, and of indicators."""
        return () if medium.source is None else medium.source.files()

    def check_medium(self, medium: Placed) -> None:
        """Decode a visual to see that it can be. Raises InputError."""
        if medium.kind == VISUALS.name:
            medium.source.read()

    def largest(self, outline: Outline) -> Mapping[str, int]:
        """The length of the rows of patches: the largest frame's, rounded up."""
        length = row_length(max((rows * columns for _, rows, columns in _grids(outline)), default=0))
        return {PATCHES: length, UNITS: length // self.config.vit_config.hidden_stride**2}

    def need(self, outline: Outline, sizes: Sizes) -> Mapping[str, int]:
        """Tokens, rows of patches, indicators."""
        grids = _grids(outline)
        return {TOKENS: outline.tokens, PATCH_ROWS: rows_needed(grids, sizes[PATCHES]), MARKERS: 2 * len(grids)}

    def load(self, media: Sequence[Placed], out: Mapping[str, np.ndarray], offset: int = 0) -> None:
        """Read the visuals of a row into its rows of patches. Raises InputError naming the visual's record."""
        visuals, indicators = [], []
        for medium in media:
            if medium.kind == VISUALS.name:
                visuals.append(Patches(medium.geometry, self._patches(medium), medium.columns + offset))
            else:
                indicators += zip(medium.geometry, medium.columns + offset)
        if visuals:
            fill_rows(visuals, out, self.config.vit_config)
        for place, (number, column) in enumerate(indicators):
            out["indicator_ids"][place] = number
            out["indicator_columns"][place] = column

    # A conversation with a model.

    def dialogue(self, conversation: Conversation) -> Dialogue:
        """A record's turns as a chat with the model has them. Raises InputError as ``chat_of`` does."""
        conversation = as_media(conversation)
        visuals = shown(conversation)

        def size_of(number: int) -> Size:
            return StillImage(self._source(visuals[number].source, self.options.dataset_dir)).probe()[:2]

        return chat_of(conversation, size_of)

    def encode_turn(
        self,
        query: Query,
        history: Sequence[Turn] | None,
        system: str | None,
        generation: Any,
        dataset_dir: str | os.PathLike | None = None,
        lenient: bool = False,
    ) -> Sample:
        """The sample of the next turn; ``generation.enable_thinking`` says whether its answer thinks first.

        Earlier answers are text without their thinking. Raises InputError for media that cannot be shown, and for a
        prompt longer than the model takes.
        """
        said = [Message(SYSTEM, system)] if system else []
        asked: list[Shown] = []
        for question, answer in [*(history or ()), (self.query_text(query), None)]:
            text, visuals = shown_in(question)
            said.append(Message(HUMAN, text))
            asked += visuals
            if answer is not None:
                said.append(Message(ANSWER, without_placeholders(without_thinking(answer))))
        placed = self._visuals(asked, dataset_dir, partial(evenly, count=self.options.num_frames))
        preface = "" if generation.enable_thinking else EMPTY_THINKING
        ids = expand_visuals(self.formatter.prompt(said, preface), self._tokens(placed))
        if len(ids) > self.config.max_position_embeddings:
            limit = self.config.max_position_embeddings
            raise InputError(f"the prompt has {len(ids)} tokens, the model takes at most {limit}; shorten it")
        return self._sample(ids, placed, "")

    def encode_answer(self, text: str, chat_format: str) -> list[int]:
        """Token ids of an answer as it follows a turn's prompt."""
        return self.tokenizer.encode(text)

    def stop_words(self, chat_format: str) -> list[list[int]]:
        """The end of the message; further ones are ``eos_token_id`` of the generation settings."""
        return [[self.tokenizer.im_end_id]]

    def policy(self, sample: Sample, generation: Any) -> TokenPolicy:
        """The budget of the thinking, where there is one. Raises InputError for one that leaves no answer."""
        if not (generation.enable_thinking and generation.enable_thinking_budget and generation.thinking_budget):
            return NewTokens()
        check_budget(generation.thinking_budget, generation.max_new_tokens)
        early_stop = self.tokenizer.encode(EARLY_STOP)
        return ThinkingBudget(generation.thinking_budget, self.tokenizer.think_end_id, early_stop)

    def query_text(self, query: Query) -> str:
        """A query as histories keep it. An image in memory is kept with this template, under a name."""
        return query_text(query, self.memory.keep)

    def sources_in(self, text: str) -> tuple[str, ...]:
        """The images and frames or files of videos that a text shows."""
        found = [visual.source for visual in shown_in(text)[1]]
        return tuple(path for source in found for path in ((source,) if isinstance(source, str) else source))

    def draw_boxes(
        self, history: Sequence[Turn], dataset_dir: str | os.PathLike | None = None, font: str | Path | None = None
    ) -> Image.Image | None:
        """The latest image of a conversation with the boxes of its last answer; None if there is no such thing."""
        if not history:
            raise InputError("history: no turn, so no answer whose boxes could be drawn")
        answer = history[-1][1]
        images = [visual for question, _ in history for visual in shown_in(question)[1] if visual.kind == IMAGE]
        if not images or not answer:
            return None
        (image,) = StillImage(self._source(images[-1].source, dataset_dir)).read()
        return draw_boxes(image, without_thinking(answer), self.boxes, font)

    # Its parts.

    def _visuals(
        self, asked: Sequence[Shown], dataset_dir: str | os.PathLike | None, choice: Any, in_training: bool = False
    ) -> list[Located]:
        """The visuals with their grids."""
        videos = sum(visual.kind == VIDEO for visual in asked)
        if videos and videos < len(asked):
            raise InputError("images and a video are given; the model takes one kind in a conversation")
        if videos > 1:
            raise InputError(f"{videos} videos are given; the model takes one in a conversation")
        found = []
        for visual in asked:
            source = self._source(visual.source, dataset_dir)
            still = StillImage(source) if visual.kind == IMAGE else choose_frames(source, choice, in_training)
            width, height, frames = still.probe()
            limits = self.options.of_video(frames) if videos else self.options.of_images(len(asked))
            try:
                found.append((still, patch_grid((width, height), frames, limits, self.config.vit_config)))
            except InputError as error:
                raise InputError(f"{visual.kind} {quote(visual.source)}: {error}") from error
        return found

    def _source(self, source: str | tuple[str, ...], dataset_dir: str | os.PathLike | None) -> Any:
        """A file, or an image in memory; frame by frame of a list."""
        if isinstance(source, tuple):
            return tuple(self._source(frame, dataset_dir) for frame in source)
        kept = self.memory.get(source)
        outside = self.options.allow_outside_dataset_dir
        return str(resolve_path(source, dataset_dir, outside)) if kept is None else kept

    def _tokens(self, placed: Sequence[Located]) -> list[int]:
        """How many tokens each visual takes."""
        unit = self.config.vit_config.hidden_stride**2
        return [frames * rows * columns // unit for _, (frames, rows, columns) in placed]

    def _sample(self, ids: Sequence[int], placed: Sequence[Located], record: str) -> Sample:
        """A sample without labels of expanded ids."""
        raw = np.array(ids, np.int32)
        begins = np.flatnonzero(np.isin(raw, (IMAGE_INDICATORS[0], VIDEO_INDICATORS[0]))).astype(np.int32)
        media: list[Placed] = []
        for (visual, grid), begin, count in zip(placed, begins, self._tokens(placed)):
            numbers = tuple(IMAGE_INDICATORS[0] - number for number in _WITH_EACH[visual.is_video])
            ends = np.array([begin, begin + count + 1], np.int32)
            columns = np.arange(begin + 1, begin + count + 1, dtype=np.int32)
            media.append(Placed(VISUALS.name, visual, columns, grid, record))
            media.append(Placed(INDICATOR_ROWS.name, None, ends, numbers, record))
        input_ids = np.where(raw < 0, np.int32(self.tokenizer.pad_id), raw)
        return Sample(input_ids, np.arange(len(raw), dtype=np.int32), None, None, len(raw), tuple(media), record)

    def _trained(self, formatted: Formatted, placed: Sequence[Located], record: str) -> Sample:
        """The sample with labels."""
        tokens = iter(self._tokens(placed))
        ids: list[int] = []
        labels: list[int] = []
        for token, label in zip(*formatted):
            expanded = expand_visuals([token], tokens)
            ids += expanded
            labels += [label] if len(expanded) == 1 else [IGNORED] * len(expanded)
        if self.tokenizer.pad_id in ids:
            raise InputError("<|endoftext|> stands in its text; the original takes it for padding; remove it")
        sample = replace(self._sample(ids, placed, record), labels=np.array(labels, np.int32))
        return replace(sample, answer_tokens=self._answer_tokens(sample))

    def _answer_tokens(self, sample: Sample) -> int:
        """How many tokens of answers are trained, their ``<|im_end|>`` not counted."""
        return int((sample.trained & (sample.input_ids != self.tokenizer.im_end_id)).sum())

    def _with_atoms(self, sample: Sample) -> list[int]:
        """Ids in which visuals are negative again."""
        ids = sample.input_ids.copy()
        for medium in sample.media:
            if medium.kind == VISUALS.name:
                ids[medium.columns] = ATOM_ID
            else:
                ids[medium.columns] = [IMAGE_INDICATORS[0] - number for number in medium.geometry]
        return ids.tolist()

    def _patches(self, medium: Placed) -> np.ndarray:
        try:
            return to_patches(medium.source.read(), medium.geometry, self.rule, self.config.vit_config)
        except InputError as error:
            raise InputError(f"{medium.record}: {error}" if medium.record else str(error)) from error

    def _count(self, kind: str, record: str) -> None:
        self.counts[kind] += 1
        self.examples.setdefault(kind, record)


def _grids(outline: Outline) -> list[tuple[int, int, int]]:
    return [(t, h, w) for kind, (t, h, w) in ((k, g) for k, g in outline.media if k == VISUALS.name)]


def _options(given: Mapping[str, Any]) -> Ovis2_5Options:
    known = [field.name for field in dataclasses.fields(Ovis2_5Options)]
    if unknown := [name for name in given if name not in known]:
        raise InputError(f"unknown option {listed(unknown)}; the template has {', '.join(known)}")
    return Ovis2_5Options(**given)


assert len(IMAGE_INDICATORS + VIDEO_INDICATORS) == INDICATORS
