"""The host's side of Qwen2.5-Omni: conversations with images, videos and sounds in, the model's arrays out."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from PIL import Image

from ms_impl.data.box_drawing import draw_boxes
from ms_impl.data.boxes import BoxStyle
from ms_impl.data.chatml import ASSISTANT, USER
from ms_impl.data.dialogue import Dialogue, Turn
from ms_impl.data.images import read_image, resolve_path
from ms_impl.data.inline_images import as_media
from ms_impl.data.media_sources import Medium, require_kinds
from ms_impl.data.memory_images import MemoryImages
from ms_impl.data.records import Conversation
from ms_impl.data.sample import TOKENS, ArraySpec, MediaKind, Outline, Placed, Sample, Sizes
from ms_impl.data.template import Query
from ms_impl.errors import InputError, quote
from ms_impl.io.json_files import read_json
from ms_impl.media.mel import BINS
from ms_impl.qwen2_5_omni import patch_rows, queries
from ms_impl.qwen2_5_omni.boxes import box_style
from ms_impl.qwen2_5_omni.chat_template import ChatMessage, Piece, Said, Shown, rendered
from ms_impl.qwen2_5_omni.config import Qwen2_5OmniConfig
from ms_impl.qwen2_5_omni.conversation import chat_of, speeches
from ms_impl.qwen2_5_omni.encoding import (
    MEL,
    PATCHES,
    PLACEHOLDER_TOKENS,
    OmniSample,
    RowBuilder,
    check_positions,
    cut_sample,
)
from ms_impl.qwen2_5_omni.media import TAKES, Prober, SoundSource, VisionSource
from ms_impl.qwen2_5_omni.options import DELETE, FRAME_EXACT, FRAME_OPTIONS, KEPT, LEFT, OmniOptions, read_options
from ms_impl.qwen2_5_omni.positions import Clock
from ms_impl.qwen2_5_omni.preprocessing import PATCH, PATCH_FEATURES, Normalisation, image_size, patches_of
from ms_impl.qwen2_5_omni.tokenizer import Qwen2_5OmniTokenizer

logger = logging.getLogger(__name__)

CHUNK = 200  # mel frames that attend to one another
CHUNK_TOKENS = CHUNK // 4
PREPROCESSOR = "preprocessor_config.json"
_FIXED = {"sampling_rate": 16000, "n_fft": 400, "hop_length": 160, "patch_size": 14, "merge_size": 2,
          "temporal_patch_size": 2}  # fmt: skip


def kinds_of(bins: int) -> tuple[MediaKind, ...]:
    """Patches of images and videos, and chunks of sounds in ``bins`` mel bins."""
    rows = ("patch_rows", "row_patches")
    patches = MediaKind(
        PATCHES,
        (
            ArraySpec("patches", np.float32, (*rows, PATCH_FEATURES)),
            ArraySpec("patch_segments", np.int32, (*rows, 2)),
            ArraySpec("patch_places", np.int32, (*rows, 2)),
        ),
        ArraySpec("patch_columns", np.int32, ("patch_rows", "row_units"), padding=None),
        "encode_patches",
    )
    chunks = (
        ArraySpec("mel", np.float32, ("audio_chunks", bins, CHUNK)),
        ArraySpec("mel_frames", np.int32, ("audio_chunks",)),
    )
    columns = ArraySpec("mel_columns", np.int32, ("audio_chunks", CHUNK_TOKENS), padding=None)
    return patches, MediaKind(MEL, chunks, columns, "encode_audio")


class Qwen2_5OmniTemplate:
    """The ``Template`` of one model: see there. Raises InputError if vocabulary and model do not belong together."""

    kinds: tuple[MediaKind, ...] = kinds_of(BINS)
    takes: ClassVar[tuple[str, ...]] = tuple(TAKES)
    kept_options: ClassVar[tuple[str, ...]] = KEPT
    position_axes: ClassVar[int] = 3
    padding_shifts_positions: ClassVar[bool] = False
    needs: ClassVar[tuple[str, ...]] = (TOKENS, "patch_rows", "audio_chunks")
    largest_of: ClassVar[tuple[str, ...]] = ("row_patches", "row_units")
    request_options: ClassVar[tuple[str, ...]] = (
        "min_pixels", "max_pixels", "video_min_pixels", "video_max_pixels", "video_total_pixels", "fps",
        "fps_min_frames", "fps_max_frames", "nframes", "use_audio_in_video",
    )  # fmt: skip
    Options: ClassVar[type] = OmniOptions
    think_end: ClassVar[str | None] = None
    fixed_sizes: ClassVar[Sizes] = {}
    capacities: ClassVar[Sizes] = {}

    def __init__(
        self, tokenizer: Qwen2_5OmniTokenizer, config: Qwen2_5OmniConfig, max_length: int | None = None,
        options: OmniOptions | None = None, normalisation: Normalisation | None = None,
    ):  # fmt: skip
        tokenizer.check(config)
        if config.vision_config.patch_size != PATCH or config.audio_config.chunk_frames != CHUNK:
            raise InputError(f"vision_config.patch_size must be {PATCH}, audio_config.n_window {CHUNK // 2}")
        self.tokenizer = tokenizer
        self.config = config
        self.max_length = config.max_position_embeddings if max_length is None else max_length
        self.options = options or OmniOptions()
        self.normalisation = normalisation or Normalisation()
        self.kinds = kinds_of(config.audio_config.num_mel_bins)
        self.memory = MemoryImages()
        self.counts: Counter[str] = Counter()
        self.examples: dict[str, str] = {}
        if isinstance(self.max_length, bool) or not isinstance(self.max_length, int) or self.max_length < 1:
            raise InputError(f"max_length must be a positive whole number, not {quote(self.max_length)}")

    @classmethod
    def from_pretrained(
        cls, directory: str | os.PathLike, config: Qwen2_5OmniConfig | None = None, max_length: int | None = None,
        trained: Mapping[str, Any] | None = None, **options: Any,
    ) -> Qwen2_5OmniTemplate:  # fmt: skip
        """From vocabulary, preprocessor_config.json and, unless ``config`` is given, config.json of a directory.

        What ``options`` leaves out is as the environment has it (see ``ms_impl.qwen2_5_omni.options``), else as it was
        ``trained``.
        """
        path = Path(directory) if Path(directory).is_dir() else Path(directory).parent  # of qwen.tiktoken
        config = config or Qwen2_5OmniConfig.from_file(path)
        released = _released(path / PREPROCESSOR, config.audio_config.num_mel_bins)
        limits: dict[str, Any] = {name: released[name] for name in ("min_pixels", "max_pixels") if name in released}
        colours = {name: tuple(released[f"image_{name}"]) for name in ("mean", "std") if f"image_{name}" in released}
        read = read_options(options, os.environ, {**limits, **(trained or {})})
        return cls(Qwen2_5OmniTokenizer.from_pretrained(path), config, max_length, read, Normalisation(**colours))

    def with_options(self, **options: Any) -> Self:
        """The same with some options changed; images in memory are shared.

        What tells how many frames to take puts an end to ``frames``, unless that is given, too: it leaves no choice.
        """
        own = {field.name: getattr(self.options, field.name) for field in dataclasses.fields(self.options)}
        if FRAME_OPTIONS & options.keys():
            own["frames"] = 0
        read = read_options({**own, **options}, {}, {})
        changed = type(self)(self.tokenizer, self.config, self.max_length, read, self.normalisation)
        changed.memory = self.memory
        return changed

    @property
    def boxes(self) -> BoxStyle:
        """How answers write boxes: in pixels of the image as the model sees it, or in thousandths."""
        return box_style(self.options.bbox_format, self._seen, self.options.norm_bbox)

    def fingerprint(self) -> str:
        """sha256 of vocabulary, configuration and options."""
        known = [self.config.to_dict(), dataclasses.asdict(self.options), dataclasses.asdict(self.normalisation)]
        digest = hashlib.sha256(json.dumps([*known, self.max_length], sort_keys=True, default=list).encode())
        for file in self.tokenizer.files:
            digest.update(file.read_bytes())
        return digest.hexdigest()

    # From a record to arrays.

    def sample(self, conversation: Conversation) -> OmniSample:
        """The whole sample of a conversation, its media probed.

        Trained are the answers with the mark of their end, as in ms-swift 3.9: not the newline after it, and not an
        answer that its record excludes, whose mark is trained all the same where it ends the conversation. Raises
        InputError naming the record.
        """
        try:
            conversation, prober = as_media(conversation), self._prober(None, conversation.record)
            said = speeches(conversation, self.options, self.boxes, prober.size_of)
            pieces = rendered(said.messages, None, self.options.add_vision_id_and_audio_id)
            sample = self._row(pieces, said.media, prober).sample(conversation.record, trained=True)
        except InputError as error:
            raise InputError(f"{conversation.record}: {error}") from error
        media = tuple(dataclasses.replace(each, record=conversation.record) for each in sample.media)
        assert sample.labels is not None
        answers = int(((sample.labels >= 0) & (sample.input_ids != self.tokenizer.im_end_id)).sum())
        return dataclasses.replace(sample, media=media, answer_tokens=answers)

    def cut(self, sample: Sample, max_length: int) -> Sample:
        """A sample of at most ``max_length`` tokens, by ``truncation_strategy``, whose positions the model has.

        Raises InputError naming the record.
        """
        try:
            if len(sample) > max_length:
                sample = self._shortened(sample, max_length)
            check_positions(sample, self.config.max_position_embeddings, self._clock.per_second)
        except InputError as error:
            raise InputError(f"{sample.record}: {error}" if sample.record else str(error)) from error
        return sample

    def find_media(self, sample: Sample) -> Sample:
        """The sample: its media were found when they were probed."""
        return sample

    def files(self, medium: Placed) -> tuple[str, ...]:
        """The files of a sound, an image, a video or its frames."""
        if isinstance(medium.source, SoundSource):
            return (medium.source.info.path,)
        video = medium.source.video
        stills = [os.fspath(still) for still in medium.source.stills if isinstance(still, str | os.PathLike)]
        return tuple(stills) if video is None else (*stills, video.path)

    def check_medium(self, medium: Placed) -> None:
        """Decode a medium to see that it can be. Raises InputError."""
        if isinstance(medium.source, SoundSource):
            medium.source.mel(BINS)
        else:
            for _ in medium.source.grids():
                pass

    def largest(self, outline: Outline) -> Mapping[str, int]:
        """Patches and merged units of a row that holds the largest frame."""
        length = patch_rows.row_length(_grids(outline))
        return {"row_patches": length, "row_units": length // 4}

    def need(self, outline: Outline, sizes: Sizes) -> Mapping[str, int]:
        """Tokens, rows of patches, and chunks of two seconds of sound."""
        rows = patch_rows.rows_needed(_grids(outline), sizes["row_patches"])
        chunks = sum(-(-geometry[0] // CHUNK) for kind, geometry in outline.media if kind == MEL)
        return {TOKENS: outline.tokens, "patch_rows": rows, "audio_chunks": chunks}

    def load(self, media: Sequence[Placed], out: Mapping[str, np.ndarray], offset: int = 0) -> None:
        """Read the media of one row into the arrays of ``kinds``. Raises InputError naming the medium's record.

        The frames of each conversation begin in a row of patches of their own.
        """
        self._load_patches([each for each in media if each.kind == PATCHES], out, offset)
        chunk = 0
        for medium in media:
            if medium.kind == MEL:
                chunk += self._load_sound(medium, chunk, out, offset)

    # A conversation with a model.

    def dialogue(self, conversation: Conversation) -> Dialogue:
        """The turns of a record, media marked. Raises InputError as ``chat_of`` does."""
        return chat_of(
            as_media(conversation), self.options, self.boxes, self._prober(None, conversation.record).size_of
        )

    def encode_turn(
        self, query: Query, history: Sequence[Turn] | None, system: str | None, generation: Any = None,
        dataset_dir: str | os.PathLike | None = None, lenient: bool = False,
    ) -> Sample:  # fmt: skip
        """The sample of the next turn up to where the answer begins. A query's media are read from their files.

        ``lenient``: a medium's own token in an earlier answer is letters, with a warning, and not an error.
        """
        messages, media = [], []
        for asked, answer in [*(history or ()), (query, None)]:
            content, shown = queries.split(self.query_text(asked))
            media += shown
            messages.append(ChatMessage(USER, content))
            messages += [] if answer is None else [ChatMessage(ASSISTANT, [Said(self._earlier(answer, lenient))])]
        require_kinds(media, [], TAKES)
        system = self.options.system_message if system is None else system
        counted = self.options.add_vision_id_and_audio_id
        pieces = rendered(messages, system or None, counted, add_generation_prompt=True)
        sample = self._row(pieces, media, self._prober(dataset_dir, "the query")).sample("", trained=False)
        if len(sample) > self.config.max_position_embeddings:
            limit = self.config.max_position_embeddings
            raise InputError(f"the prompt has {len(sample):,} tokens, the model takes at most {limit:,}; shorten it")
        check_positions(sample, self.config.max_position_embeddings, self._clock.per_second)
        return sample

    def encode_answer(self, text: str, chat_format: str) -> list[int]:
        """Token ids of an answer as it follows a turn's prompt."""
        return self.tokenizer.encode(text)

    def stop_words(self, chat_format: str) -> list[list[int]]:
        """The token sequences that end an answer."""
        return [[self.tokenizer.im_end_id], [self.tokenizer.eod_id]]

    def policy(self, sample: Sample, generation: Any) -> None:
        """None: every token is sampled."""

    def query_text(self, query: Query) -> str:
        """A query as histories keep it; an image in memory is kept with this template under a name."""
        return queries.as_text(query, self.memory.keep)

    def sources_in(self, text: str) -> tuple[str, ...]:
        """The images, sounds, and frames or files of videos that a text shows."""
        found = [medium.source for medium in queries.split(text)[1]]
        return tuple(path for source in found for path in ((source,) if isinstance(source, str) else source))

    def draw_boxes(
        self, history: Sequence[Turn], dataset_dir: str | os.PathLike | None = None, font: str | Path | None = None
    ) -> Image.Image | None:
        """The last image of a conversation with the boxes of its last answer; None if there is no such thing."""
        if not history:
            raise InputError("history: no turn, so no answer whose boxes could be drawn")
        path, answer = queries.last_image([self.query_text(query) for query, _ in history]), history[-1][1]
        if not path or not answer:
            return None
        kept = self.memory.get(path)
        image = read_image(resolve_path(path, dataset_dir)) if kept is None else kept
        return draw_boxes(image, answer, self.boxes, font)

    @property
    def _clock(self) -> Clock:
        config = self.config
        chunk = config.position_id_per_seconds * config.seconds_per_chunk
        return Clock(config.position_id_per_seconds, chunk, frame_exact=self.options.chunks == FRAME_EXACT)

    def _seen(self, width: int, height: int) -> tuple[int, int]:
        """Width and height of an image as the model sees it."""
        limits = dataclasses.replace(self.options.limits, resized_height=0, resized_width=0)
        rows, columns = image_size(height, width, limits)
        return columns, rows

    def _prober(self, dataset_dir: str | os.PathLike | None, record: str) -> Prober:
        return Prober(self.options, dataset_dir, self.memory.get, lambda kind: self._count(kind, record))

    def _row(self, pieces: Sequence[Piece], media: Sequence[Medium], prober: Prober) -> RowBuilder:
        """The row of a rendered conversation. Texts that follow one another are encoded as one."""
        row, rest, encode = RowBuilder(self.config, self._clock), iter(media), self.tokenizer.encode
        waiting = ""
        for piece in pieces:
            if isinstance(piece, str):
                waiting += piece
                continue
            row.add_text(encode(waiting))
            waiting = ""
            if isinstance(piece, Shown):
                row.add_medium(prober(next(rest)))
            else:
                row.add_text(encode(piece.text), piece.scale)
        row.add_text(encode(waiting))
        return row

    def _earlier(self, answer: str, lenient: bool) -> str:
        """An earlier answer; what would stand for a medium in it is broken up where ``lenient``."""
        for token in PLACEHOLDER_TOKENS:
            if lenient and token in answer:
                logger.warning("an earlier answer holds %s and shows nothing, so it is text", token)
                answer = answer.replace(token, token.replace("|", "", 1))
        return answer

    def _shortened(self, sample: Sample, max_length: int) -> Sample:
        strategy = self.options.truncation_strategy
        if strategy == DELETE:
            raise InputError(
                f"{len(sample):,} tokens are more than max_length {max_length:,}; raise it, leave the record out, or "
                "set truncation_strategy to left or right"
            )
        if not isinstance(sample, OmniSample):
            raise InputError(f"a row of {len(sample):,} tokens is longer than {max_length:,}")
        self._count(f"cut off at {max_length} tokens", sample.record)
        cut = cut_sample(sample, max_length, strategy == LEFT, self._clock)
        answers = 0
        if cut.labels is not None:
            answers = int(((cut.labels >= 0) & (cut.input_ids != self.tokenizer.im_end_id)).sum())
        return dataclasses.replace(cut, answer_tokens=answers)

    def _load_patches(self, media: Sequence[Placed], out: Mapping[str, np.ndarray], offset: int) -> None:
        if not media:
            return
        length = out["patches"].shape[1]
        arrays = {name: out[name] for name in ("patch_segments", "patch_places")}
        first_row = 0
        window = self.config.vision_config.window_patches
        for conversation in _conversations(media):
            grids = [_grid(medium.geometry) for medium in conversation]
            spots = iter(patch_rows.places((h * w for t, h, w in grids for _ in range(t)), length))
            for medium in conversation:
                source: VisionSource = medium.source
                table = self.normalisation.video_table() if source.is_video else self.normalisation.image_table()
                units = medium.columns.reshape(medium.geometry[0], -1) + offset
                try:
                    for pair, columns in zip(source.grids(), units, strict=True):
                        row, start = next(spots)
                        row += first_row
                        end = start + 4 * len(columns)
                        patches_of(pair, table, out["patches"][row, start:end])
                        patch_rows.fill_frame(_grid(medium.geometry), row, start, window, arrays)
                        out["patch_columns"][row, start // 4 : end // 4] = columns
                except InputError as error:
                    raise InputError(f"{medium.record}: {error}" if medium.record else str(error)) from error
            first_row += patch_rows.rows_needed(grids, length)

    def _load_sound(self, medium: Placed, chunk: int, out: Mapping[str, np.ndarray], offset: int) -> int:
        """Read a sound from ``chunk`` on; how many chunks it took."""
        try:
            mel = medium.source.mel(out["mel"].shape[1])
        except InputError as error:
            raise InputError(f"{medium.record}: {error}" if medium.record else str(error)) from error
        starts = range(0, mel.shape[1], CHUNK)
        for number, start in enumerate(starts, start=chunk):
            part = mel[:, start : start + CHUNK]
            out["mel"][number, :, : part.shape[1]] = part
            out["mel_frames"][number] = part.shape[1]
            columns = medium.columns[start // 4 : start // 4 + CHUNK_TOKENS] + offset
            out["mel_columns"][number, : len(columns)] = columns
        return len(starts)

    def _count(self, kind: str, record: str) -> None:
        self.counts[kind] += 1
        self.examples.setdefault(kind, record)


def _grids(outline: Outline) -> list[tuple[int, int, int]]:
    return [_grid(geometry) for kind, geometry in outline.media if kind == PATCHES]


def _grid(geometry: tuple[int, ...]) -> tuple[int, int, int]:
    return geometry[0], geometry[1], geometry[2]


def _conversations(media: Sequence[Placed]) -> list[list[Placed]]:
    """The images and videos of a row by conversation: the first of each has number 0."""
    groups: list[list[Placed]] = []
    for medium in media:
        if medium.geometry[3] == 0 or not groups:
            groups.append([])
        groups[-1].append(medium)
    return groups


def _released(path: Path, bins: int) -> dict[str, Any]:
    """preprocessor_config.json, if there is one. Raises InputError for features that this project does not compute."""
    if not path.is_file():
        return {}
    content = read_json(path)
    for key, value in {**_FIXED, "feature_size": bins}.items():
        if content.get(key, value) != value:
            raise InputError(f"{path}: {key} is {quote(content[key])}; this model needs {value}")
    for key in ("image_mean", "image_std"):
        value = content.get(key, [1.0, 1.0, 1.0])
        if not isinstance(value, list) or len(value) != 3 or not all(isinstance(x, int | float) for x in value):
            raise InputError(f"{path}: {key} must be three numbers, not {quote(value)}")
    return content
