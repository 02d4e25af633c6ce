"""TM-RoPE on the host: time, height and width of every token, as whole numbers.

A row is told as blocks in order: text, images, videos, sounds, and films, whose video and sound are told together in
chunks of two seconds. Every function returns positions that begin at 0; ``row_positions`` strings them together.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

Array = np.ndarray


@dataclass(frozen=True)
class Clock:
    """How positions count: ``per_second`` steps a second, ``chunk`` steps told together, ``merge``² patches a token.

    ``frame_exact``: a film's chunks hold whole frames. Otherwise they are cut as the original cuts them: each begins
    at the first token due in it, and takes in one chunk's worth of waiting at a time, which splits a frame where a grid
    lasts longer than a chunk.
    """

    per_second: int = 25
    chunk: int = 50
    merge: int = 2
    frame_exact: bool = False


@dataclass(frozen=True)
class Text:
    """``tokens`` of text; the marks around media are text, too."""

    tokens: int


@dataclass(frozen=True)
class Sound:
    """``tokens`` of 40 ms."""

    tokens: int


@dataclass(frozen=True)
class Vision:
    """An image, or a video whose grids last ``second_per_grid``; ``grid`` frames / 2, rows and columns in patches."""

    grid: tuple[int, int, int]
    second_per_grid: float = 0.0


@dataclass(frozen=True)
class Film:
    """A video with its sound, both marks before it and both after it included."""

    video: Vision
    sound: Sound


Block = Text | Sound | Vision | Film


class Piece(NamedTuple):
    """Tokens ``start`` to ``end`` of a film's sound or of its video."""

    is_sound: bool
    start: int
    end: int


def vision_tokens(grid: Sequence[int], merge: int = 2) -> int:
    """Tokens of an image or video."""
    frames, rows, columns = grid
    return frames * rows * columns // merge**2


def sound_tokens(mel_frames: int) -> int:
    """Tokens of a sound of ``mel_frames`` (10 ms each); 0 for one or two."""
    return ((mel_frames - 1) // 2 + 1) // 2


def vision_positions(vision: Vision, clock: Clock) -> Array:
    """int32 [3, tokens] of an image or video. Time is computed in float32 and cut off, as in the original."""
    frames, rows, columns = vision.grid
    rows, columns = rows // clock.merge, columns // clock.merge
    seconds = np.arange(frames, dtype=np.float32) * np.float32(vision.second_per_grid)
    times = (seconds * np.float32(clock.per_second)).astype(np.int64)
    cells = np.meshgrid(times, np.arange(rows), np.arange(columns), indexing="ij")
    return np.stack(cells).reshape(3, -1).astype(np.int32)


def film_pieces(times: Array, sound: int, clock: Clock) -> list[Piece]:
    """The order in which a film's tokens stand: a chunk of the video, a chunk of the sound, and so on.

    ``times`` int [video tokens]: their positions in time; ``sound``: its tokens, one a position.
    """
    starts = _whole_chunks if clock.frame_exact else _due_chunks
    video_chunks, sound_chunks = starts(times, clock.chunk), starts(np.arange(sound), clock.chunk)
    pieces = []
    for number in range(max(len(video_chunks), len(sound_chunks))):
        for is_sound, chunks in ((False, video_chunks), (True, sound_chunks)):
            if number < len(chunks):
                pieces.append(Piece(is_sound, *chunks[number]))
    return [piece for piece in pieces if piece.start < piece.end]


def film_positions(film: Film, clock: Clock) -> tuple[list[Piece], Array]:
    """The pieces of a film, and int32 [3, tokens] of video and sound in their order, without the marks."""
    video = vision_positions(film.video, clock)
    sound = np.tile(np.arange(film.sound.tokens, dtype=np.int32), (3, 1))
    pieces = film_pieces(video[0], film.sound.tokens, clock)
    parts = [(sound if piece.is_sound else video)[:, piece.start : piece.end] for piece in pieces]
    return pieces, np.concatenate([np.empty((3, 0), np.int32), *parts], axis=1)


def row_positions(blocks: Iterable[Block], clock: Clock) -> tuple[Array, int]:
    """int32 [3, tokens] of a row, and the position of the token that would follow it.

    A block begins one after the largest position of what stands before it; after a film that is the largest of its last
    piece, which may be less than the largest of the whole film. The next position counts from the largest of the row.
    """
    parts, start = [np.empty((3, 0), np.int32)], 0
    for block in blocks:
        if isinstance(block, Film):
            positions, start = _film_with_marks(block, start, clock)
        elif isinstance(block, Vision):
            positions = start + vision_positions(block, clock)
            start = int(positions.max()) + 1
        else:
            positions = np.tile(start + np.arange(block.tokens, dtype=np.int32), (3, 1))
            start += block.tokens
        parts.append(positions)
    row = np.concatenate(parts, axis=1).astype(np.int32)
    return row, int(row.max(initial=-1)) + 1


def _film_with_marks(film: Film, start: int, clock: Clock) -> tuple[Array, int]:
    """A film with two marks before it at one position and two after it, and where the next block begins."""
    pieces, body = film_positions(film, clock)
    body = start + 1 + body
    last = pieces[-1].end - pieces[-1].start
    end = int(body[:, -last:].max()) + 1
    marks = [np.full((3, 2), position, np.int32) for position in (start, end)]
    return np.concatenate((marks[0], body, marks[1]), axis=1), end + 1


def _due_chunks(times: Array, chunk: int) -> list[tuple[int, int]]:
    """Ranges of tokens, the original's way: a token that is due in a later chunk opens the next one, only that."""
    chunks: list[tuple[int, int]] = []
    start = 0
    for token, time in enumerate(times.tolist()):
        if time >= (len(chunks) + 1) * chunk:
            chunks.append((start, token))
            start = token
    return [*chunks, (start, len(times))]


def _whole_chunks(times: Array, chunk: int) -> list[tuple[int, int]]:
    """Ranges of the tokens of each chunk of time; empty where none falls into it."""
    number = int(times[-1]) // chunk + 1 if len(times) else 0
    ends = np.searchsorted(times, chunk * np.arange(1, number + 1)).tolist()
    return list(zip([0, *ends[:-1]], ends))
