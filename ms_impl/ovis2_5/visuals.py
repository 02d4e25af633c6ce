"""Images and videos of a conversation: what is known of them without decoding, and their frames."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from ms_impl.data import image_cost
from ms_impl.data.images import read_image
from ms_impl.errors import InputError

Source = str | os.PathLike | Image.Image  # a file, or an image in memory
Choice = Callable[[int], Sequence[int]]  # of so many frames → those that are shown


@dataclass(frozen=True)
class StillImage:
    """One image."""

    source: Source
    is_video = False

    def files(self) -> tuple[str, ...]:
        """Its file, unless it is in memory."""
        return _paths((self.source,))

    def probe(self) -> tuple[int, int, int]:
        """Width, height and number of frames."""
        return *_size(self.source), 1

    def read(self) -> list[Image.Image]:
        """The image, RGB."""
        return [_read(self.source)]


@dataclass(frozen=True)
class FrameList:
    """A video as images of its frames, in order."""

    frames: tuple[Source, ...]
    is_video = True

    def files(self) -> tuple[str, ...]:
        """Those of the frames."""
        return _paths(self.frames)

    def probe(self) -> tuple[int, int, int]:
        """Width and height of the first frame, and their number. Each frame is looked for."""
        return *[_size(frame) for frame in self.frames][0], len(self.frames)

    def read(self) -> list[Image.Image]:
        """The frames, RGB; each keeps its size."""
        return [_read(frame) for frame in self.frames]


@dataclass(frozen=True)
class VideoFile:
    """Some frames of a video file, by number."""

    path: str
    frames: tuple[int, ...]
    size: tuple[int, int]  # width, height
    is_video = True

    def files(self) -> tuple[str, ...]:
        """The video."""
        return (self.path,)

    def probe(self) -> tuple[int, int, int]:
        """Width, height and number of frames."""
        return *self.size, len(self.frames)

    def read(self) -> list[Image.Image]:
        """The frames, RGB."""
        from ms_impl.media.video import probe_video, read_frames

        return [Image.fromarray(frame) for frame in read_frames(probe_video(self.path), self.frames)]


Visual = StillImage | FrameList | VideoFile


def _paths(sources: Sequence[Source]) -> tuple[str, ...]:
    return tuple(os.fspath(source) for source in sources if not isinstance(source, Image.Image))


def choose_frames(source: str | Sequence[Source], choice: Choice, by_seconds: bool = False) -> FrameList | VideoFile:
    """The frames of a video, a file or its frames, that are shown.

    ``by_seconds``: as the original's training counts a file's frames: as many as its nominal rate gives for its
    duration, each shown at its number divided by the rate. Raises InputError naming the file.
    """
    if not isinstance(source, str | os.PathLike):
        if not source:
            raise InputError("a video has no frames")
        return FrameList(tuple(source[number] for number in choice(len(source))))
    from ms_impl.media.video import probe_video

    info = probe_video(source)
    total = info.frames
    if by_seconds:
        total = max(1, int(info.rate * info.duration))
    numbers = list(choice(total))
    if by_seconds:
        numbers = info.shown_at(np.array(numbers) / float(info.rate)).tolist()
    return VideoFile(str(source), tuple(numbers), (info.width, info.height))


def _size(source: Source) -> tuple[int, int]:
    if isinstance(source, Image.Image):
        return source.size
    with image_cost.opened(source) as image:
        return image.size


def _read(source: Source) -> Image.Image:
    return source if isinstance(source, Image.Image) else read_image(Path(source))
