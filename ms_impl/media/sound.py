"""Sound files, and the sound of videos → one channel of 16,000 samples a second, float32.

By soundfile where it knows the format, otherwise by PyAV; resampled by soxr. Its length is told before it is decoded.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from ms_impl.errors import InputError
from ms_impl.media.decoders import TIMEOUT, Deadline, called, check_file, decoder, file_faults, opened
from ms_impl.media.mel import RATE
from ms_impl.media.video import VideoInfo

Array = np.ndarray

_BLOCK = 1 << 18  # samples a channel that are decoded at once
_GAP = 0.02  # seconds between packets that are filled with silence
_QUALITY = "HQ"
_UNKNOWN = 1 << 40  # samples: what headers without a length say
_MAX_CHANNELS, _MAX_RATE = 64, 1 << 20


@dataclass(frozen=True)
class SoundInfo:
    """A sound: ``samples`` at 16 kHz that reading it gives.

    ``origin``: the file's second that they begin with; None: where soundfile begins.
    """

    path: str
    samples: int
    origin: Fraction | None = None
    what: str = "audio"

    @property
    def name(self) -> str:
        """How errors call it."""
        return called(self.what, self.path)


def probe_sound(path: str | os.PathLike, timeout: float = TIMEOUT) -> SoundInfo:
    """How long a sound file is. Raises InputError naming it if it cannot be read or has no sample."""
    name = called("audio", path)
    check_file(path, name)
    info = _probe_by_soundfile(path, name) or _probe_by_av(path, name, timeout)
    if not info.samples:
        raise InputError(f"{name} has no samples")
    return info


def sound_of(video: VideoInfo) -> SoundInfo | None:
    """The sound of a video, from its first frame on; None if it is silent."""
    if video.sound is None:
        return None
    samples = math.ceil(video.sound.end * RATE)
    origin = Fraction(0) if video.numbered else int(video.stamps[0]) * video.time_base
    return SoundInfo(video.path, samples, origin, "the sound of video")


def read_sound(info: SoundInfo, timeout: float = TIMEOUT, first: int = 0, samples: int | None = None) -> Array:
    """float32 [``samples``] from ``first`` on, to the end if None: all channels' mean at 16 kHz.

    What is read is held in memory, and no more. Raises InputError naming the file if it is damaged.
    """
    deadline = Deadline(info.name, timeout)
    blocks = _by_soundfile(info, deadline) if info.origin is None else _by_av(info, deadline)
    out, place = np.zeros(info.samples - first if samples is None else samples, np.float32), -first
    for block in blocks:
        deadline.check()
        taken = block[max(-place, 0) : len(out) - place]
        start = max(place, 0)
        out[start : start + len(taken)] = taken
        place += len(block)
        if place >= len(out):
            break
    if not np.isfinite(out).all():
        raise InputError(f"{info.name} holds samples that are not numbers; save it again")
    return out


class _Resampler:
    """Blocks [samples, channels] at one rate → blocks [samples] at 16 kHz."""

    def __init__(self, rate: int, name: str):
        soxr = decoder("soxr", name)
        self._stream = None if rate == RATE else soxr.ResampleStream(rate, RATE, 1, "float32", _QUALITY)

    def __call__(self, block: Array, last: bool = False) -> Array:
        with np.errstate(invalid="ignore"):  # what is no number is told at the end
            mono = np.ascontiguousarray(block.mean(axis=1, dtype=np.float32)) if block.ndim > 1 else block
        return mono if self._stream is None else self._stream.resample_chunk(mono, last=last)


def _probe_by_soundfile(path: str | os.PathLike, name: str) -> SoundInfo | None:
    soundfile = decoder("soundfile", name)
    try:
        with soundfile.SoundFile(os.fspath(path)) as file:
            _check_kind(file.samplerate, file.channels, name)
            if file.frames < _UNKNOWN:
                return SoundInfo(str(path), -(-file.frames * RATE // file.samplerate))
    except soundfile.SoundFileError:
        pass
    return None


def _probe_by_av(path: str | os.PathLike, name: str, timeout: float) -> SoundInfo:
    deadline = Deadline(name, timeout)
    with opened(path, name, deadline) as container:
        stream = _sound_stream(container, name)
        starts, ends = [], []
        for packet in container.demux(stream):
            deadline.check()
            if packet.size and packet.pts is not None and not packet.is_discard:
                starts.append(packet.pts)
                ends.append(packet.pts + (packet.duration or 0))
        if not ends:
            return SoundInfo(str(path), 0)
        origin, end = min(starts) * stream.time_base, max(ends) * stream.time_base
    return SoundInfo(str(path), math.ceil((end - origin) * RATE), origin)


def _sound_stream(container: Any, name: str) -> Any:
    if not container.streams.audio:
        raise InputError(f"{name} holds no sound")
    stream = container.streams.audio[0]
    if stream.codec_context is None:
        raise InputError(f"{name} is coded in a way that no decoder is known for; save it again as FLAC or WAV")
    _check_kind(stream.codec_context.sample_rate, stream.codec_context.channels, name)
    return stream


def _check_kind(rate: int, channels: int, name: str) -> None:
    if not 0 < rate <= _MAX_RATE or not 0 < channels <= _MAX_CHANNELS:
        raise InputError(f"{name} has {channels} channels at {rate} Hz; at most {_MAX_CHANNELS} at {_MAX_RATE:,}")


def _by_soundfile(info: SoundInfo, deadline: Deadline) -> Iterator[Array]:
    soundfile = decoder("soundfile", info.name)
    with file_faults(deadline), soundfile.SoundFile(info.path) as file:
        resample = _Resampler(file.samplerate, info.name)
        for block in file.blocks(_BLOCK, dtype="float32", always_2d=True):
            deadline.check()
            yield resample(block)
        yield resample(np.zeros((0, 1), np.float32), last=True)


def _by_av(info: SoundInfo, deadline: Deadline) -> Iterator[Array]:
    with opened(info.path, info.name, deadline) as container, file_faults(deadline):
        stream = _sound_stream(container, info.name)
        resample = None
        for rate, block in _placed(container, stream, info, deadline):
            resample = resample or _Resampler(rate, info.name)
            yield resample(block)
        if resample is not None:
            yield resample(np.zeros((0, 1), np.float32), last=True)


def _placed(container: Any, stream: Any, info: SoundInfo, deadline: Deadline) -> Iterator[tuple[int, Array]]:
    """The rate and blocks [samples, channels] from the origin on; silence where the file has a gap."""
    av = decoder("av", info.name)
    convert, written, kind = av.AudioResampler(format="flt"), 0, None
    assert info.origin is not None
    for frame in container.decode(stream):
        deadline.check()
        kind = kind or (frame.sample_rate, frame.layout.name, frame.format.name)
        if kind != (frame.sample_rate, frame.layout.name, frame.format.name):
            raise InputError(f"{info.name} changes its channels or its rate midway; save it again")
        rate, channels, base = frame.sample_rate, frame.layout.nb_channels, frame.time_base
        _check_kind(rate, channels, info.name)
        for part in convert.resample(frame):
            block = part.to_ndarray().reshape(-1, channels)
            due = written if frame.pts is None else round((frame.pts * base - info.origin) * rate)
            while due > written + _GAP * rate:
                silence = min(due - written, _BLOCK)
                yield rate, np.zeros((silence, 1), np.float32)
                written += silence
            if written == 0 and due < 0:  # before the origin
                block = block[-due:]
            written += len(block)
            yield rate, block
