"""Texts and probed media → ids, positions, and the columns that media take."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from ms_impl.data.batch import IGNORED
from ms_impl.data.sample import Placed, Sample
from ms_impl.errors import InputError
from ms_impl.qwen2_5_omni.config import Qwen2_5OmniConfig
from ms_impl.qwen2_5_omni.media import Probed, SoundSource, VisionSource
from ms_impl.qwen2_5_omni.positions import (
    Block,
    Clock,
    Film,
    Text,
    film_pieces,
    row_positions,
    vision_positions,
    vision_tokens,
)
from ms_impl.qwen2_5_omni.tokenizer import CONFIG_TOKENS

Array = np.ndarray

PATCHES, MEL = "patches", "mel"
_PLACEHOLDERS = {"image_token_index": "<image>", "video_token_index": "<video>", "audio_token_index": "<audio>"}
PLACEHOLDER_TOKENS = tuple(CONFIG_TOKENS[key] for key in _PLACEHOLDERS)  # each stands for a feature


@dataclass(frozen=True)
class Part:
    """A stretch of a row: text, or a medium with its marks, which is never cut. ``name`` is how errors call it."""

    blocks: tuple[Block, ...]
    tokens: int
    name: str = ""


@dataclass(frozen=True)
class OmniSample(Sample):
    """A sample that knows its parts, so that text can be left out and positions counted anew."""

    parts: tuple[Part, ...] = ()


class RowBuilder:
    """Puts a row together from left to right.

    Attributes:
        ids, labels, scales: of the tokens so far.
    """

    def __init__(self, config: Qwen2_5OmniConfig, clock: Clock):
        self._config, self._clock = config, clock
        self.ids: list[int] = []
        self.labels: list[int] = []
        self.scales: list[float] = []
        self._parts: list[Part] = []
        self._media: list[Placed] = []
        self._visuals = 0

    def add_text(self, ids: Sequence[int], scale: float | None = None) -> None:
        """Tokens of text; they are trained, each counting ``scale``, unless that is None.

        Raises InputError for a token that stands for a medium: no feature would take its place.
        """
        for key, told in _PLACEHOLDERS.items():
            if getattr(self._config, key) in ids:
                raise InputError(f"the text holds {CONFIG_TOKENS[key]}; write {told} there, and give the medium")
        if ids:
            self._extend(ids, scale)
            self._parts.append(Part((Text(len(ids)),), len(ids)))

    def add_medium(self, probed: Probed) -> None:
        """A medium between its marks."""
        vision, sound = probed.vision, probed.sound
        if vision is not None and sound is not None:
            self._add_film(vision, sound)
        elif vision is not None:
            self._add_vision(vision)
        elif sound is not None:
            self._add_sound(sound)

    def sample(self, record: str, trained: bool) -> OmniSample:
        """What was put together; without labels unless it is ``trained``."""
        positions, following = row_positions(self._blocks(), self._clock)
        labels = np.array(self.labels, np.int32)
        scales = np.array(self.scales, np.float32)
        return OmniSample(
            np.array(self.ids, np.int32),
            positions,
            labels if trained else None,
            scales if trained and (scales != 1).any() else None,
            following,
            tuple(self._media),
            record,
            parts=tuple(self._parts),
        )

    def _blocks(self) -> list[Block]:
        return [block for part in self._parts for block in part.blocks]

    def _extend(self, ids: Sequence[int], scale: float | None = None) -> None:
        self.ids += ids
        self.labels += [IGNORED] * len(ids) if scale is None else ids
        self.scales += [1.0 if scale is None else scale] * len(ids)

    def _add(
        self, ids: Sequence[int], name: str, blocks: tuple[Block, ...],
        vision: tuple[VisionSource, Array] | None = None, sound: tuple[SoundSource, Array] | None = None,
    ) -> None:  # fmt: skip
        start = len(self.ids)
        if vision is not None:
            source, columns = vision
            self._place(PATCHES, source, start + columns, (*source.grid, self._visuals))
            self._visuals += 1
        if sound is not None:
            self._place(MEL, sound[0], start + sound[1], (sound[0].frames,))
        self._extend(ids)
        self._parts.append(Part(blocks, len(ids), name))

    def _place(self, kind: str, source: VisionSource | SoundSource, columns: Array, geometry: tuple[int, ...]) -> None:
        self._media.append(Placed(kind, source, columns.astype(np.int32), geometry))

    def _add_vision(self, vision: VisionSource) -> None:
        config = self._config
        count = vision_tokens(vision.grid, self._clock.merge)
        token = config.video_token_index if vision.is_video else config.image_token_index
        ids = [config.vision_start_token_id, *[token] * count, config.vision_end_token_id]
        self._add(ids, vision.name, (Text(1), vision.block, Text(1)), vision=(vision, np.arange(count) + 1))

    def _add_sound(self, sound: SoundSource) -> None:
        config, count = self._config, sound.block.tokens
        ids = [config.audio_start_token_id, *[config.audio_token_index] * count, config.audio_end_token_id]
        self._add(ids, sound.info.name, (Text(1), sound.block, Text(1)), sound=(sound, np.arange(count) + 1))

    def _add_film(self, vision: VisionSource, sound: SoundSource) -> None:
        config, film = self._config, Film(vision.block, sound.block)
        times = vision_positions(film.video, self._clock)[0]
        is_sound = np.concatenate(
            [np.full(piece.end - piece.start, piece.is_sound)
             for piece in film_pieces(times, film.sound.tokens, self._clock)]
        )  # fmt: skip
        body = np.where(is_sound, config.audio_token_index, config.video_token_index)
        starts = [config.vision_start_token_id, config.audio_start_token_id]
        ends = [config.audio_end_token_id, config.vision_end_token_id]
        self._add([*starts, *body.tolist(), *ends], vision.name, (film,),
                  (vision, np.flatnonzero(~is_sound) + 2), (sound, np.flatnonzero(is_sound) + 2))  # fmt: skip


def check_positions(sample: Sample, limit: int, per_second: int) -> None:
    """Raise InputError, naming the medium and its second, for a position that the model does not have."""
    if sample.next_position <= limit:
        return
    start = 0
    for part in getattr(sample, "parts", ()):
        columns = sample.position_ids[:, start : start + part.tokens]
        if part.name and int(columns.max(initial=0)) >= limit:
            second = (limit - int(columns.min())) / per_second
            raise InputError(
                f"{part.name} reaches position {int(columns.max()):,} at its end, the model has {limit:,}: it is past "
                f"them from second {second:.1f} on; shorten it"
            )
        start += part.tokens
    raise InputError(f"position {sample.next_position - 1:,} is past the model's {limit:,}; shorten the conversation")


def cut_sample(sample: OmniSample, length: int, keep_end: bool, clock: Clock) -> OmniSample:
    """The sample with ``length`` tokens: all media with their marks, and of the text the first tokens, or the last.

    Raises InputError where the media alone are longer.
    """
    is_text = np.concatenate([np.full(part.tokens, not part.name) for part in sample.parts])
    room = length - int((~is_text).sum())
    if room < 0:
        raise InputError(f"its media alone take {length - room:,} tokens, more than max_length {length:,}; raise it")
    order = np.cumsum(is_text[::-1])[::-1] if keep_end else np.cumsum(is_text)
    kept = ~is_text | (order <= room)
    parts, start = [], 0
    for part in sample.parts:
        count = int(kept[start : start + part.tokens].sum())
        start += part.tokens
        if count:
            parts.append(part if part.name else Part((Text(count),), count))
    positions, following = row_positions([block for part in parts for block in part.blocks], clock)
    moved = np.cumsum(kept) - 1
    return replace(
        sample,
        input_ids=sample.input_ids[kept],
        position_ids=positions,
        labels=None if sample.labels is None else sample.labels[kept],
        loss_scale=None if sample.loss_scale is None else sample.loss_scale[kept],
        next_position=following,
        media=tuple(replace(each, columns=moved[each.columns].astype(np.int32)) for each in sample.media),
        parts=tuple(parts),
    )
