"""The media of a conversation, probed: what is read later, how many tokens that gives, and at which times.

Nothing is decoded here but a video's first frame; ``VisionSource.grids`` and ``SoundSource.mel`` read the files.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import numpy as np
from PIL import Image

from ms_impl.data import image_cost
from ms_impl.data.images import resolve_path
from ms_impl.data.media_sources import AUDIO, IMAGE, PLACEHOLDERS, VIDEO, Medium
from ms_impl.errors import InputError, quote
from ms_impl.media.mel import RATE, log_mel
from ms_impl.media.mel import frame_count as mel_frames
from ms_impl.media.resize import resize_in_float
from ms_impl.media.sound import SoundInfo, probe_sound, read_sound, sound_of
from ms_impl.media.video import VideoInfo, probe_video, read_frames
from ms_impl.qwen2_5_omni.options import FIXED, TIMESTAMPS, OmniOptions
from ms_impl.qwen2_5_omni.positions import Sound, Vision, sound_tokens
from ms_impl.qwen2_5_omni.preprocessing import (
    FRAMES_PER_GRID,
    PATCH,
    Limits,
    Size,
    equal_parts,
    frame_count,
    grid_of,
    grids_of,
    image_size,
    spread_frames,
    video_size,
)

Array = np.ndarray

# What a record may say of one medium, and the limit that it sets.
IMAGE_OPTIONS = {
    "min_pixels": "min_pixels", "max_pixels": "max_pixels", "resized_height": "resized_height",
    "resized_width": "resized_width",
}  # fmt: skip
VIDEO_OPTIONS = {
    "min_pixels": "video_min_pixels", "total_pixels": "video_total_pixels", "resized_height": "resized_height",
    "resized_width": "resized_width", "fps": "fps", "nframes": "nframes", "min_frames": "fps_min_frames",
    "max_frames": "fps_max_frames",
}  # fmt: skip
TAKES = {
    IMAGE: tuple(IMAGE_OPTIONS),
    VIDEO: (*VIDEO_OPTIONS, "max_pixels", "sample_fps", "video_start", "video_end", "use_audio_in_video"),
    AUDIO: ("audio_start", "audio_end"),
}
# Of a list of frames, all of which are taken; and of a video file, whose rate is told by itself.
_NOT_OF_LISTS = ("total_pixels", "nframes", "min_frames", "max_frames", "video_start", "video_end")
_NOT_OF_FILES = ("sample_fps",)
_SILENT = "video without sound, shown as frames alone"
_SHORTEST = 2 * 160 + 1  # samples that give a token: three mel frames


@dataclass(frozen=True)
class VisionSource:
    """An image, a list of frame files, or frames of a video file, and the size that they are resized to."""

    name: str
    size: Size
    second_per_grid: float = 0.0
    stills: tuple[Any, ...] = ()  # paths, or images in memory
    video: VideoInfo | None = None
    numbers: tuple[int, ...] = ()
    timeout: float = 0.0

    @property
    def is_video(self) -> bool:
        return self.video is not None or len(self.stills) > 1

    @property
    def grid(self) -> tuple[int, int, int]:
        return grid_of(len(self.numbers) or len(self.stills), self.size)

    @property
    def block(self) -> Vision:
        return Vision(self.grid, self.second_per_grid)

    def grids(self) -> Iterator[Array]:
        """Pairs of frames, uint8 [2, height, width, 3], one after another. Raises InputError naming the file."""
        return grids_of(self._frames())

    def _frames(self) -> Iterator[Array]:
        height, width = self.size
        for still in self.stills:
            yield np.asarray(_rgb(still).resize((width, height), Image.Resampling.BICUBIC))
        if self.video is not None:
            for frame in read_frames(self.video, self.numbers, self.timeout):
                yield resize_in_float(frame, height, width)


@dataclass(frozen=True)
class SoundSource:
    """A part of a sound: ``samples`` at 16 kHz from ``first`` on."""

    info: SoundInfo
    first: int
    samples: int
    timeout: float = 0.0

    @property
    def frames(self) -> int:
        """Mel frames."""
        return mel_frames(self.samples)

    @property
    def block(self) -> Sound:
        return Sound(sound_tokens(self.frames))

    def mel(self, bins: int) -> Array:
        """float32 [bins, frames]. Raises InputError naming the file."""
        return log_mel(read_sound(self.info, self.timeout, self.first, self.samples), bins)


@dataclass(frozen=True)
class Probed:
    """A medium of a conversation: an image, a sound, or, of a video with sound, both."""

    kind: str
    vision: VisionSource | None = None
    sound: SoundSource | None = None


class Prober:
    """Probes the media of conversations. ``count`` is told of what was changed."""

    def __init__(
        self, options: OmniOptions, dataset_dir: str | os.PathLike | None, in_memory: Callable[[str], Any],
        count: Callable[[str], None],
    ):  # fmt: skip
        self._options, self._dataset_dir, self._in_memory, self._count = options, dataset_dir, in_memory, count

    def __call__(self, medium: Medium) -> Probed:
        """Raises InputError naming the file for one that cannot be read, or is too large or too small."""
        told = dict(medium.options)
        if medium.kind == AUDIO:
            return Probed(AUDIO, sound=self._sound(medium, told))
        if medium.kind == IMAGE:
            return Probed(IMAGE, self._bounded(self._image(medium.source, told)))
        with_sound = told.get("use_audio_in_video", self._options.use_audio_in_video)
        _check_told(medium, told)
        if not isinstance(medium.source, str):
            if with_sound:
                self._count(_SILENT)
            return Probed(VIDEO, self._bounded(self._frame_list(medium.source, told)))
        info = self._part(probe_video(self._file(medium.source, VIDEO), self._options.media_timeout), told)
        return Probed(VIDEO, self._bounded(self._video(info, told)), self._track(info) if with_sound else None)

    def size_of(self, source: str) -> tuple[int, int]:
        """Width and height of an image."""
        return _size(self._still(source))

    def _image(self, source: Any, told: Mapping[str, Any]) -> VisionSource:
        still = self._still(source)
        width, height = _size(still)
        limits = _with(self._options.limits, IMAGE_OPTIONS, told, resized_height=0, resized_width=0)
        return VisionSource(f"image '{source}'", _named(f"image '{source}'", image_size, height, width, limits),
                            stills=(still,))  # fmt: skip

    def _frame_list(self, sources: tuple[str, ...], told: Mapping[str, Any]) -> VisionSource:
        """Frames are stills to the original: their own limits, and as many as there are."""
        name = f"video of {len(sources)} frames beginning with '{sources[0]}'"
        rate = told.get("sample_fps", told.get("fps", self._options.frames_fps))
        if not _is_number(rate) or rate <= 0:
            raise InputError(f'{name}: its frames have no rate; say "fps" beside them, or set frames_fps')
        stills = [self._still(source) for source in sources]
        if len({_size(still) for still in stills}) > 1:
            raise InputError(f"{name}: its frames differ in size; make them equal")
        width, height = _size(stills[0])
        limits = _with(self._options.limits, IMAGE_OPTIONS, told)
        stills += stills[-1:] * (len(stills) % FRAMES_PER_GRID)
        size = _named(name, image_size, height, width, limits)
        return VisionSource(name, size, FRAMES_PER_GRID / rate, tuple(stills))

    def _video(self, info: VideoInfo, told: Mapping[str, Any]) -> VisionSource:
        limits = _with(self._options.limits, VIDEO_OPTIONS, told)
        numbers, seconds = _named(info.name, self._choice, info, limits)
        if self._options.second_per_grid == FIXED:
            seconds = FRAMES_PER_GRID / limits.fps
        size = _named(info.name, video_size, info.height, info.width, len(numbers), limits, told.get("max_pixels"))
        return VisionSource(info.name, size, seconds, video=info, numbers=numbers, timeout=self._options.media_timeout)

    def _choice(self, info: VideoInfo, limits: Limits) -> tuple[tuple[int, ...], float]:
        """Which frames are taken, and the seconds of two of them."""
        if info.frames < FRAMES_PER_GRID:
            raise InputError("it has one frame; show that as an image")
        if frames := self._options.frames:
            if info.frames < frames:
                self._count(f"video of fewer than {frames} frames, some taken more than once")
            every = np.arange(frames) / frames * float(info.duration)
            chosen = equal_parts(info.frames, frames) if info.constant else info.shown_at(every)
            return tuple(chosen.tolist()), float(FRAMES_PER_GRID * info.duration / frames)
        frames = frame_count(info.frames, float(info.rate), limits)
        if info.constant:
            chosen = spread_frames(info.frames, frames)
        else:
            chosen = info.shown_at(np.linspace(0, info.seconds[-1], frames))
        if self._options.second_per_grid == TIMESTAMPS:
            span = info.seconds[chosen[-1]] - info.seconds[chosen[0]]
            return tuple(chosen.tolist()), FRAMES_PER_GRID * float(span) / (frames - 1)
        return tuple(chosen.tolist()), FRAMES_PER_GRID / (frames / info.frames * float(info.rate))

    def _part(self, info: VideoInfo, told: Mapping[str, Any]) -> VideoInfo:
        """The video from ``video_start`` to ``video_end`` seconds, where its record says them."""
        start, end = _span(told, "video", info.name)
        if start == 0 and end is None:
            return info
        seconds = info.seconds
        kept = np.flatnonzero((seconds >= start - 1e-9) & (seconds <= (seconds[-1] if end is None else end) + 1e-9))
        if not len(kept):
            raise InputError(f"{info.name} has no frame from second {start:g} to {end}; it lasts {seconds[-1]:.2f} s")
        sound = info.sound
        if sound is not None:
            before = Fraction(int(info.stamps[kept[0]] - info.stamps[0])) * info.time_base
            until = sound.end if end is None else min(sound.end, Fraction(end))
            sound = replace(sound, start=sound.start - before, end=until - before)
            sound = sound if sound.end > 0 else None
        duration = len(kept) / info.rate if info.constant else Fraction(float(seconds[kept[-1]] - seconds[kept[0]]))
        return replace(info, stamps=info.stamps[kept], duration=duration, sound=sound)

    def _track(self, info: VideoInfo) -> SoundSource | None:
        found = sound_of(info)
        if found is None:
            self._count(_SILENT)
            return None
        return self._checked(found, 0, found.samples)

    def _sound(self, medium: Medium, told: Mapping[str, Any]) -> SoundSource:
        info = probe_sound(self._file(medium.source, AUDIO), self._options.media_timeout)
        start, end = _span(told, "audio", info.name)
        first = round(start * RATE)
        last = info.samples if end is None else min(round(end * RATE), info.samples)
        return self._checked(info, first, last - first)

    def _checked(self, info: SoundInfo, first: int, samples: int) -> SoundSource:
        if samples < _SHORTEST:
            raise InputError(
                f"{info.name}: {max(samples, 0)} samples at 16 kHz give no token; {_SHORTEST} are the least"
            )
        most = self._options.max_audio_seconds
        if most and samples > most * RATE:
            raise InputError(
                f"{info.name} lasts {samples / RATE:.1f} s, more than {most:g} (max_audio_seconds); it is not cut: "
                "raise that, or say audio_start and audio_end"
            )
        return SoundSource(info, first, samples, self._options.media_timeout)

    def _bounded(self, source: VisionSource) -> VisionSource:
        height, width = source.size
        patches, most = height // PATCH * (width // PATCH), self._options.max_frame_patches
        if patches > most:
            option = "VIDEO_MAX_PIXELS" if source.video is not None else "MAX_PIXELS"
            raise InputError(
                f"{source.name} has {patches:,} patches in a frame of {width}×{height} pixels, which attend to one "
                f"another: {4 * patches**2 / 1e9:.1f} GB a head; lower {option}, or raise max_frame_patches ({most:,})"
            )
        return source

    def _still(self, source: Any) -> Any:
        """An image in memory, or the path of a file."""
        kept = self._in_memory(source) if isinstance(source, str) else source
        return self._file(source, IMAGE) if kept is None else kept

    def _file(self, source: Any, kind: str) -> str:
        directory = self._options.dataset_dir if self._dataset_dir is None else self._dataset_dir
        if not isinstance(source, str):
            raise InputError(f"{PLACEHOLDERS[kind]} must be one file, not {quote(source)}")
        return str(resolve_path(source, directory or None, self._options.allow_outside_dataset_dir, kind))


def _check_told(medium: Medium, told: Mapping[str, Any]) -> None:
    """Raise InputError for what is said of a video and has no meaning."""
    is_file = isinstance(medium.source, str)
    if wrong := [key for key in (_NOT_OF_FILES if is_file else _NOT_OF_LISTS) if key in told]:
        what = "a video file" if is_file else "a video given as a list of frames"
        raise InputError(f"{', '.join(map(repr, wrong))} of {what} {quote(medium.source)} has no meaning; remove it")
    if not isinstance(told.get("use_audio_in_video", False), bool):
        raise InputError(f"'use_audio_in_video' must be true or false, not {quote(told['use_audio_in_video'])}")


def _size(still: Any) -> tuple[int, int]:
    if isinstance(still, Image.Image):
        return still.size
    with image_cost.opened(still) as image:
        return image.size


def _rgb(still: Any) -> Image.Image:
    """An image as RGB; what is transparent is white."""
    if isinstance(still, Image.Image):
        return still
    with image_cost.opened(still) as image:
        image.load()
        if image.mode != "RGBA":
            return image.convert("RGB")
        white = Image.new("RGB", image.size, (255, 255, 255))
        white.paste(image, mask=image.getchannel("A"))
        return white


def _with(limits: Limits, names: Mapping[str, str], told: Mapping[str, Any], **more: Any) -> Limits:
    """The limits with what a record says of one medium."""
    if ("resized_height" in told) != ("resized_width" in told):
        raise InputError("'resized_height' and 'resized_width' belong together; say both")
    own = {names[key]: value for key, value in told.items() if key in names}
    for key, value in told.items():
        if key in (*names, "max_pixels") and (
            not _is_number(value) or value <= 0 or key != "fps" and value != int(value)
        ):
            raise InputError(
                f"'{key}' must be a positive {'number' if key == 'fps' else 'whole number'}, not {value!r}"
            )
    return replace(limits, **{**more, **own})


def _span(told: Mapping[str, Any], kind: str, name: str) -> tuple[float, float | None]:
    """``…_start`` and ``…_end`` in seconds; None: to the end."""
    start, end = told.get(f"{kind}_start", 0), told.get(f"{kind}_end")
    if not _is_number(start) or start < 0 or end is not None and (not _is_number(end) or end <= start):
        raise InputError(f"{name}: {kind}_start and {kind}_end must be seconds, the end after the start")
    return float(start), None if end is None else float(end)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e12


def _named(name: str, function: Callable[..., Any], *arguments: Any) -> Any:
    try:
        return function(*arguments)
    except InputError as error:
        raise InputError(f"{name}: {error}") from error
