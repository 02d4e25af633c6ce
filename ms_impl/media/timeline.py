"""A clip or a sound drawn along its time: frames, sound, and marks at the seconds when something happens."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from ms_impl.data.fonts import font_for
from ms_impl.data.tags import shorten
from ms_impl.media.mel import RATE
from ms_impl.media.sound import SoundInfo, probe_sound, read_sound, sound_of
from ms_impl.media.video import VideoInfo, holds_video, probe_video, read_frames

Array = np.ndarray
Colour = tuple[int, int, int]

ANSWER, TRUTH = (214, 39, 40), (30, 140, 60)  # colours of marks
WIDTH = 1120  # pixels of the image
MOST_FRAMES, MOST_MARKS = 10, 12

_MARGIN, _GAP, _LETTERS, _LONGEST_LABEL = 24, 10, 16, 60
_FRAME_HEIGHT, _SOUND_HEIGHT = 110, 90
_PAPER, _INK, _FAINT, _WAVE = (255, 255, 255), (40, 40, 40), (205, 205, 205), (70, 120, 190)
_STEPS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 1800, 3600)  # seconds between the axis's numbers

_NUMBER = r"\d{1,6}(?:\.\d{1,6})?"
_CLOCK = r"(?:(?P<hours>\d{1,2}):)?(?P<minutes>\d{1,3}):(?P<rest>\d{2}(?:\.\d{1,6})?)"
_TIME = re.compile(
    rf"(?<![\d.:]){_CLOCK}(?![\d:])|\bsecond (?P<after>{_NUMBER})(?![\d.]*\d)"
    rf"|(?<![\d.])(?P<before>{_NUMBER})[ -]?(?:s|secs?|seconds?|秒)(?![A-Za-z])|^\s*(?P<alone>{_NUMBER})\s*\.?\s*$",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Mark:
    """Something at a second of a clip, from its first frame on."""

    seconds: float
    label: str = ""
    colour: Colour = ANSWER


def times_in(text: str, duration: float) -> list[float]:
    """The seconds that an answer names, each once, in order; those after the end of a clip are left out.

    ``17 s``, ``17.5 seconds``, ``second 17``, ``1:02``, ``1:02:03``, or a number that is the whole answer.
    """
    found = []
    for match in _TIME.finditer(text):
        if match["minutes"] is not None:
            seconds = 3600 * int(match["hours"] or 0) + 60 * int(match["minutes"]) + float(match["rest"])
        else:
            seconds = float(match["after"] or match["before"] or match["alone"])
        found.append(seconds)
    return [each for each in dict.fromkeys(found) if each <= duration]


def answer_marks(text: str, duration: float) -> list[Mark]:
    """Marks at the seconds that an answer names, the first ``MOST_MARKS`` of them."""
    return [Mark(seconds, f"answer: {seconds:g} s") for seconds in times_in(text, duration)[:MOST_MARKS]]


def clip_seconds(path: str | os.PathLike) -> float:
    """How long a video or a sound lasts. Raises InputError naming the file."""
    return _Clip(path).duration


def draw_timeline(
    path: str | os.PathLike, marks: Sequence[Mark] = (), font: str | Path | None = None, width: int = WIDTH
) -> Image.Image:
    """The timeline of a video, with its sound if it has one, or of a sound file.

    Each frame stands where it is shown; marks cross frames and sound. Raises InputError naming a file that cannot be
    read.
    """
    clip = _Clip(path)
    inner = width - 2 * _MARGIN
    labels = [mark for mark in marks if mark.label]
    top = _MARGIN + len(labels) * (_LETTERS + 6)
    rows: list[tuple[Image.Image, int]] = []
    if clip.video is not None:
        rows.append((_frames_row(clip.video, clip.duration, inner), _FRAME_HEIGHT))
    if clip.sound is not None:
        rows.append((_sound_row(read_sound(clip.sound), clip.duration, inner), _SOUND_HEIGHT))
    bottom = top + sum(height + _GAP for _, height in rows)
    canvas = Image.new("RGB", (width, bottom + 2 * _LETTERS + _MARGIN), _PAPER)
    place = top
    for row, height in rows:
        canvas.paste(row, (_MARGIN, place))
        place += height + _GAP
    drawn = ImageDraw.Draw(canvas)
    _axis(drawn, clip.duration, inner, bottom)
    for number, mark in enumerate(sorted(marks, key=lambda mark: mark.seconds)):
        _mark(drawn, mark, clip.duration, inner, (_MARGIN + number * (_LETTERS + 6), bottom), font)
    return canvas


class _Clip:
    """What is drawn of a file: a video with or without sound, or a sound."""

    def __init__(self, path: str | os.PathLike):
        self.video: VideoInfo | None = None
        self.sound: SoundInfo | None = None
        if holds_video(path):
            self.video = probe_video(path)
            self.sound = sound_of(self.video)
            self.duration = float(self.video.duration)
        else:
            self.sound = probe_sound(path)
            self.duration = self.sound.samples / RATE


def _x(seconds: float, duration: float, width: int) -> int:
    return round(min(max(seconds / duration, 0), 1) * (width - 1))


def _frames_row(video: VideoInfo, duration: float, width: int) -> Image.Image:
    """Frames at equal distances of time, each with its left edge where it is shown."""
    most = max(1, min(MOST_FRAMES, video.frames))
    shape = video.width / video.height
    count = max(1, min(most, int(width / max(_FRAME_HEIGHT * shape, 1)) or 1))
    slot = width // count
    row = Image.new("RGB", (width, _FRAME_HEIGHT), _PAPER)
    times = np.arange(count) * duration / count
    for seconds, frame in zip(times, read_frames(video, video.shown_at(times))):
        height = min(_FRAME_HEIGHT, round((slot - 2) / shape)) or 1
        size = max(1, min(slot - 2, round(height * shape))), height
        small = Image.fromarray(frame).resize(size, Image.Resampling.BICUBIC)
        row.paste(small, (_x(float(seconds), duration, width), (_FRAME_HEIGHT - height) // 2))
    return row


def _sound_row(samples: Array, duration: float, width: int) -> Image.Image:
    """How loud a sound is: its loudest sample and its effective value in each column, up and down from the middle."""
    row = Image.new("RGB", (width, _SOUND_HEIGHT), _PAPER)
    drawn = ImageDraw.Draw(row)
    middle, loudest = _SOUND_HEIGHT // 2, max(float(np.abs(samples).max(initial=0)), 1e-4)
    edges = np.linspace(0, duration * RATE, width + 1).round().astype(int)
    drawn.line((0, middle, width, middle), fill=_FAINT)
    for column, (start, end) in enumerate(zip(edges, np.maximum(edges[1:], edges[:-1] + 1))):
        part = samples[start:end].astype(np.float64)
        if len(part):
            peak = float(np.abs(part).max()) / loudest * (middle - 2)
            power = float(np.sqrt((part**2).mean())) / loudest * (middle - 2)
            drawn.line((column, middle - peak, column, middle + peak), fill=_FAINT)
            drawn.line((column, middle - power, column, middle + power), fill=_WAVE)
    return row


def _axis(drawn: ImageDraw.ImageDraw, duration: float, width: int, top: int) -> None:
    """The seconds below the rows."""
    step = next((step for step in _STEPS if duration / step <= 14), _STEPS[-1] * (1 + duration // (14 * _STEPS[-1])))
    drawn.line((_MARGIN, top, _MARGIN + width, top), fill=_INK)
    for number in range(int(duration / step + 1e-6) + 1):
        x = _MARGIN + _x(number * step, duration, width)
        drawn.line((x, top, x, top + 5), fill=_INK)
        text = f"{number * step:g}" + (" s" if number == 0 else "")
        drawn.text((x, top + 7), text, fill=_INK, font=font_for(text, _LETTERS - 2), anchor="ma" if number else "la")


def _mark(
    drawn: ImageDraw.ImageDraw, mark: Mark, duration: float, width: int, rows: tuple[int, int],
    font: str | Path | None,
) -> None:  # fmt: skip
    """A line over all rows at the mark's second, and its label at the upper end."""
    x, (top, bottom) = _MARGIN + _x(mark.seconds, duration, width), rows
    drawn.line((x, top, x, bottom + 5), fill=mark.colour, width=3)
    label = shorten("".join(filter(str.isprintable, mark.label)), _LONGEST_LABEL)
    if label:
        letters = font_for(label, _LETTERS, font)
        left, _, right, _ = drawn.textbbox((0, 0), label, font=letters)
        place = x + 6 if x + 6 + right - left <= _MARGIN + width else x - 6 - (right - left)
        drawn.text((place, top - 2), label, fill=mark.colour, font=letters)
