"""The template of a family that does not exist: two kinds of media, positions of three axes, geometry of any length.

A tile file has ``rows columns`` as text, a tone file the number of its samples; both then have a number that stands in
their arrays. An image of r × c tiles takes r · c tokens, whose positions are rows and columns; a tone takes a token for
two samples, in chunks of four.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ms_impl.data.conversations import ConversationFormat, check_answers, spoken
from ms_impl.data.media_sources import AUDIO, IMAGE, split_placeholders
from ms_impl.data.sample import IGNORED, TOKENS, ArraySpec, MediaKind, Placed, Sample
from ms_impl.errors import InputError

MEDIUM, END, PAD = 300, 299, 298
ROLES = {"user": 256, "assistant": 257}
CHUNK = 4  # samples of a tone

TILES = MediaKind(
    "tiles",
    arrays=(ArraySpec("tiles", np.float32, ("tile_rows", "row_tiles", "channels")),),
    columns=ArraySpec("tile_columns", np.int32, ("tile_rows", "row_tiles"), padding=None),
    encode="encode_tiles",
)
TONES = MediaKind(
    "tones",
    arrays=(
        ArraySpec("tones", np.float32, ("tone_chunks", CHUNK)),
        ArraySpec("tone_lengths", np.int32, ("tone_chunks",)),
    ),
    columns=ArraySpec("tone_columns", np.int32, ("tone_chunks", CHUNK // 2), padding=None),
    encode="encode_tones",
)


@dataclass(frozen=True)
class ToyOptions(ConversationFormat):
    dataset_dir: str = ""
    shortest: int = 1  # samples of a tone
    most_chunks: int | None = None


class Tokenizer:
    pad_id = PAD

    def decode(self, ids, **_):
        return "".join(chr(token) if token < 256 else f"<{token}>" for token in ids)


class ToyTemplate:
    kinds = (TILES, TONES)
    takes = ()
    kept_options = ()
    position_axes = 3
    padding_shifts_positions = False
    needs = (TOKENS, "tile_rows", "tone_chunks")
    largest_of = ("row_tiles",)
    Options = ToyOptions
    boxes = None
    think_end = None
    request_options = ("most_chunks",)
    fixed_sizes = {"channels": 2}

    def __init__(self, max_length: int = 256, **options):
        self.options = ToyOptions(**options)
        self.tokenizer, self.config, self.max_length = Tokenizer(), None, max_length
        self.counts: Counter[str] = Counter()
        self.examples: dict[str, str] = {}

    @classmethod
    def from_pretrained(cls, directory, config=None, max_length=256, **options):
        return cls(max_length, **options)

    @property
    def capacities(self):
        return {} if self.options.most_chunks is None else {"tone_chunks": self.options.most_chunks}

    def fingerprint(self):
        known = [dataclasses.asdict(self.options), self.max_length]
        return hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()

    def sample(self, conversation):
        try:
            turns = spoken([_Turn(turn) for turn in conversation.turns], self._count)
            check_answers(turns)
            return self._encoded(turns, conversation)
        except InputError as error:
            raise InputError(f"{conversation.record}: {error}") from error

    def cut(self, sample, max_length):
        if len(sample) <= max_length:
            return sample
        self._count(f"cut off at {max_length} tokens")
        media = tuple(medium for medium in sample.media if medium.columns[-1] < max_length)
        if any(medium.columns[0] < max_length <= medium.columns[-1] for medium in sample.media):
            raise InputError(f"{sample.record}: max_length {max_length} cuts a medium")
        kept = replace(sample, input_ids=sample.input_ids[:max_length], labels=sample.labels[:max_length], media=media)
        return replace(kept, position_ids=sample.position_ids[:, :max_length], answer_tokens=int(kept.trained.sum()))

    def find_media(self, sample):
        return sample

    def files(self, medium):
        return (medium.source,)

    def check_medium(self, medium):
        _read(medium.source)

    def largest(self, outline):
        return {"row_tiles": max((sizes[1] for kind, sizes in outline.media if kind == TILES.name), default=1)}

    def need(self, outline, sizes):
        rows = sum(geometry[0] for kind, geometry in outline.media if kind == TILES.name)
        chunks = sum(-(-geometry[0] // CHUNK) for kind, geometry in outline.media if kind == TONES.name)
        return {TOKENS: outline.tokens, "tile_rows": rows, "tone_chunks": chunks}

    def load(self, media, out, offset=0):
        row = chunk = 0
        for medium in media:
            columns = medium.columns + offset
            if medium.kind == TILES.name:
                rows, width = medium.geometry
                out["tiles"][row : row + rows, :width] = _read(medium.source)[-1]
                out["tile_columns"][row : row + rows, :width] = columns.reshape(rows, width)
                row += rows
            else:
                samples = medium.geometry[0]
                for start in range(0, samples, CHUNK):
                    length = min(CHUNK, samples - start)
                    out["tones"][chunk, :length] = _read(medium.source)[-1]
                    out["tone_lengths"][chunk] = length
                    own = columns[start // 2 : start // 2 + -(-length // 2)]
                    out["tone_columns"][chunk, : len(own)] = own
                    chunk += 1

    def _encoded(self, turns, conversation):
        media = iter(conversation.media)
        ids, labels, positions, placed, scales = [], [], [], [], []
        begin = 0  # the next position
        for turn in turns:
            for kind, piece in [("role", turn.role), *split_placeholders(turn.text, (IMAGE, AUDIO)), ("end", "")]:
                if kind in (IMAGE, AUDIO):
                    kind, path, geometry, steps = self._probed(next(media))
                    columns = np.arange(len(ids), len(ids) + steps.shape[1], dtype=np.int32)
                    placed.append(Placed(kind, path, columns, geometry, conversation.record))
                    new, steps, next_step = [MEDIUM] * len(columns), steps + begin, steps.max() + 1
                else:
                    new = {"role": [ROLES.get(turn.role, 258)], "end": [END]}.get(kind, list(piece.encode()))
                    steps, next_step = np.tile(np.arange(len(new)) + begin, (3, 1)), len(new)
                trained = turn.trained and kind in ("text", "end")
                ids += new
                labels += new if trained else [IGNORED] * len(new)
                scales += [turn.loss_scale] * len(new)
                positions.append(steps)
                begin += next_step
        return Sample(
            np.array(ids, np.int32), np.concatenate(positions, 1).astype(np.int32), np.array(labels, np.int32),
            np.array(scales, np.float32), begin, tuple(placed), conversation.record,
            answer_tokens=int(np.not_equal(labels, IGNORED).sum()),
        )  # fmt: skip

    def _probed(self, medium):
        path = os.path.join(self.options.dataset_dir, medium.source)
        *geometry, _ = _read(path)
        if medium.kind == IMAGE:
            rows, columns = np.divmod(np.arange(geometry[0] * geometry[1]), geometry[1])
            return TILES.name, path, tuple(geometry), np.stack([np.zeros_like(rows), rows, columns])
        if geometry[0] < self.options.shortest:
            raise InputError(f"tone '{path}' has {geometry[0]} samples, fewer than {self.options.shortest}")
        return TONES.name, path, tuple(geometry), np.tile(np.arange(-(-geometry[0] // 2)), (3, 1))

    def _count(self, kind):
        self.counts[kind] += 1


class _Turn:
    """A turn of a record as ``ms_impl.data.conversations`` speaks of messages."""

    def __init__(self, turn):
        self.role, self.text, self.loss_scale = turn.role, turn.text, turn.loss_scale
        self.trained = self.role == "assistant" and turn.trained is not False


def _read(path):
    try:
        return [int(number) for number in Path(path).read_text().split()]
    except OSError as error:
        raise InputError(f"'{path}' cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise InputError(f"'{path}' is no medium of the toy family") from error
