"""Video files → frames, by PyAV: what there is and when it is shown, without decoding; then the wanted frames alone.

Times are those of the file's packets, not of its header: a header may promise frames that are not there.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import numpy as np

from ms_impl.errors import InputError
from ms_impl.media.decoders import TIMEOUT, Deadline, called, file_faults, opened

Array = np.ndarray

MAX_PIXELS = 7680 * 4320  # of a frame: 8K
MAX_FRAMES = 1 << 22  # 19 hours at 60 frames a second
_INDEXED = ("mov", "matroska")  # formats whose headers count, so that what is missing is noticed
_COVER = 0x400  # FFmpeg's AV_DISPOSITION_ATTACHED_PIC
_SHORTER = Fraction(1)  # second that a header may promise too much


@dataclass(frozen=True)
class SoundTrack:
    """The first sound of a video file: where it begins and ends, in seconds from the first frame."""

    start: Fraction
    end: Fraction


@dataclass(frozen=True, eq=False)
class VideoInfo:
    """A video file, or a part of one; equal where the frames are.

    Attributes:
        height, width: of its frames as they are shown, turned upright.
        stamps: int64 [frames], when each is shown, ascending, in ``time_base`` seconds.
        key_stamps: those at which decoding may begin, with the stamps to seek for, int64 [keys, 2].
        duration: seconds from the first frame to the end of the last.
        rate: frames a second.
        constant: whether the frames follow one another at that rate.
        numbered: the file has no stamps; they are the frames' numbers.
        turns: quarter turns against the clock that make the frames upright.
    """

    path: str
    height: int
    width: int
    stamps: Array = field(repr=False)
    key_stamps: Array = field(repr=False)
    time_base: Fraction
    duration: Fraction
    rate: Fraction
    constant: bool
    turns: int = 0
    numbered: bool = False
    sound: SoundTrack | None = None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, VideoInfo) and self.path == other.path and np.array_equal(self.stamps, other.stamps)

    def __hash__(self) -> int:
        return hash((self.path, self.frames, int(self.stamps[0])))

    @property
    def name(self) -> str:
        """How errors call it."""
        return called("video", self.path)

    @property
    def frames(self) -> int:
        return len(self.stamps)

    @property
    def seconds(self) -> Array:
        """float64 [frames], when each is shown, from the first."""
        return (self.stamps - self.stamps[0]) * float(self.time_base)

    def shown_at(self, seconds: Array) -> Array:
        """int64: the frame shown at each of some times, the last one after its end."""
        return np.maximum(np.searchsorted(self.seconds, seconds + 1e-9, side="right") - 1, 0)


def probe_video(path: str | os.PathLike, timeout: float = TIMEOUT) -> VideoInfo:
    """What a video file holds. One frame is decoded, for its size and how it is turned.

    Raises InputError naming the file if it is missing, damaged or truncated, no video, too large, or takes too long.
    """
    name = called("video", path)
    deadline = Deadline(name, timeout)
    with opened(path, name, deadline) as container:
        stream = _video_stream(container, name)
        if stream.codec_context is None:
            raise InputError(f"{name} is coded in a way that no decoder is known for; save it again as H.264")
        _check_size(stream.codec_context.width, stream.codec_context.height, name)
        packets = _Packets(container, stream, deadline)
        if packets.first_frame is None:
            raise InputError(f"{name} has no frame that can be decoded")
        height, width, turns = packets.first_frame
        stamps = np.unique(np.array(packets.stamps, np.int64))
        rate, constant = _rate(stream, packets, stamps)
        last = Fraction(packets.last_duration) * stream.time_base if packets.last_duration else 1 / rate
        span = int(stamps[-1] - stamps[0]) * stream.time_base
        duration = len(stamps) / rate if constant else span + last
        _check_whole(container, stream, packets, name)
    size = (width, height) if turns % 2 else (height, width)
    return VideoInfo(
        str(path), *size, stamps, np.array(packets.keys, np.int64).reshape(-1, 2), stream.time_base, duration, rate,
        constant, turns, packets.numbered, packets.sound(int(stamps[0]) * stream.time_base),
    )  # fmt: skip


def holds_video(path: str | os.PathLike) -> bool:
    """Whether a file has frames, and not sound alone. Raises InputError naming it if it is neither."""
    name = called("clip", path)
    with opened(path, name, Deadline(name)) as container:
        return not all(map(_is_cover, container.streams.video))


def read_frames(info: VideoInfo, numbers: Sequence[int] | Array, timeout: float = TIMEOUT) -> Iterator[Array]:
    """Frames uint8 [height, width, 3] by number, which never falls; one that is wanted again is given again.

    Only what is between a wanted frame and the last place before it where decoding can begin is decoded, and one frame
    is in memory at a time. Raises InputError naming the file where a frame cannot be decoded.
    """
    deadline = Deadline(info.name, timeout)
    wanted = [int(info.stamps[number]) for number in numbers]
    with opened(info.path, info.name, deadline) as container:
        stream = _video_stream(container, info.name)
        stream.codec_context.thread_count = 1  # a core for each worker; frames in flight would cost memory
        frames = _Decoder(container, stream, info, wanted, deadline)
        stamp, image = None, None
        for number, wish in zip(numbers, wanted):
            if wish != stamp:
                with file_faults(deadline):
                    stamp, image = wish, _upright(frames.at(wish, int(number)), info.turns)
            assert image is not None
            yield image


def _video_stream(container: Any, name: str) -> Any:
    """The first video that is not a cover."""
    for stream in container.streams.video:
        if not _is_cover(stream):
            return stream
    raise InputError(f"{name} holds no video")


def _is_cover(stream: Any) -> bool:
    return bool(int(stream.disposition) & _COVER)


def _check_size(width: int, height: int, name: str) -> None:
    if width * height > MAX_PIXELS:
        raise InputError(f"{name} has frames of {width}×{height} pixels, more than {MAX_PIXELS:,}")


class _Packets:
    """What the packets of a file tell of its frames and its first sound. One frame is decoded.

    Attributes:
        first_frame: its height and width as stored, and quarter turns against the clock.
    """

    def __init__(self, container: Any, video: Any, deadline: Deadline):
        self.stamps: list[int] = []
        self.keys: list[tuple[int, int]] = []
        self.last_duration = 0
        self.numbered = False
        self.first_frame: tuple[int, int, int] | None = None
        self.total = 0  # packets of frames, those that an edit list hides too
        self.first, self.last = Fraction(1 << 40), Fraction(0)  # seconds of all packets
        self._sound: list[tuple[Any, Any]] = []
        sounds = container.streams.audio[:1]
        for packet in container.demux(video, *sounds):
            deadline.check()
            if packet.stream_index == video.index and self.first_frame is None:
                self._decode(packet, deadline.name)
            if not packet.size:
                continue
            self._extend(packet)
            if packet.stream_index != video.index:
                self._add_sound(packet)
                continue
            self.total += 1
            if not packet.is_discard:
                self._add(packet, deadline)
        if self.numbered:
            self.stamps, self.keys = list(range(len(self.stamps))), [(0, 0)]

    def sound(self, first_frame: Fraction) -> SoundTrack | None:
        """The sound's extent from the first frame; None if there is none."""
        if not self._sound:
            return None
        start, end = min(start for start, _ in self._sound), max(end for _, end in self._sound)
        origin = 0 if self.numbered else first_frame
        return SoundTrack(start - origin, end - origin) if end > origin else None

    def _decode(self, packet: Any, name: str) -> None:
        for frame in packet.decode():
            _check_size(frame.width, frame.height, name)
            turns = round((getattr(frame, "rotation", 0) or 0) / 90) % 4
            self.first_frame = self.first_frame or (frame.height, frame.width, turns)

    def _add(self, packet: Any, deadline: Deadline) -> None:
        if len(self.stamps) >= MAX_FRAMES:
            raise InputError(f"{deadline.name} has more than {MAX_FRAMES:,} frames; cut it")
        if packet.pts is None:
            self.numbered = True
        stamp = packet.pts if packet.pts is not None else len(self.stamps)
        if not self.stamps or stamp > max(self.stamps[-16:]):
            self.last_duration = packet.duration or 0
        if packet.is_keyframe:
            self.keys.append((stamp, stamp if packet.dts is None else min(stamp, packet.dts)))
        self.stamps.append(stamp)

    def _extend(self, packet: Any) -> None:
        if packet.pts is not None:
            start = packet.pts * packet.time_base
            self.first = min(self.first, start)
            self.last = max(self.last, start + (packet.duration or 0) * packet.time_base)

    def _add_sound(self, packet: Any) -> None:
        if packet.pts is not None and not packet.is_discard:
            start = packet.pts * packet.time_base
            self._sound.append((start, start + (packet.duration or 0) * packet.time_base))


def _rate(stream: Any, packets: _Packets, stamps: Array) -> tuple[Fraction, bool]:
    """Frames a second, and whether all frames follow one another at that rate, to half a frame."""
    base, told = stream.time_base, stream.average_rate or stream.base_rate
    if packets.numbered:
        return Fraction(told or 25), True
    own = packets.last_duration or (int(stamps[-1] - stamps[0]) // max(len(stamps) - 1, 1)) or 1
    measured = len(stamps) / ((int(stamps[-1] - stamps[0]) + own) * base)
    for rate in filter(None, (told, measured)):
        due = np.arange(len(stamps)) / float(rate)
        if np.abs((stamps - stamps[0]) * float(base) - due).max() <= 0.5 / float(rate):
            return Fraction(rate), True
    return Fraction(measured), False


def _check_whole(container: Any, stream: Any, packets: _Packets, name: str) -> None:
    """Raise InputError if the header promises frames that the file does not have."""
    if not container.format.name.startswith(_INDEXED):
        return
    if stream.frames > packets.total:
        raise InputError(f"{name} is truncated: its header counts {stream.frames:,} frames, it has {packets.total:,}")
    promised, found = (stream.duration or 0) * stream.time_base, packets.last - packets.first
    if not promised and container.duration:
        promised = Fraction(container.duration, 1_000_000)
    if promised > found + max(_SHORTER, found / 50):
        raise InputError(
            f"{name} is truncated or its header is wrong: it promises {float(promised):,.1f} s and holds "
            f"{float(found):,.1f} s; save it again"
        )


def _upright(image: Array, turns: int) -> Array:
    return np.ascontiguousarray(np.rot90(image, turns)) if turns else image


class _Decoder:
    """Decodes on to the wanted frames, and jumps where a later beginning is nearer."""

    def __init__(self, container: Any, stream: Any, info: VideoInfo, wanted: Sequence[int], deadline: Deadline):
        self._container, self._stream, self._info, self._deadline = container, stream, info, deadline
        self._wanted = set(wanted)
        self._keys, self._targets = (np.sort(info.key_stamps[:, axis]) for axis in (0, 1))
        self._may_jump = not info.numbered and len(info.key_stamps) > 1
        self._begin()

    def at(self, stamp: int, number: int) -> Array:
        """The frame at ``stamp``, uint8 [height, width, 3] as stored."""
        self._jump(stamp)
        for found, frame in self._frames:
            if found == stamp:
                return frame.to_ndarray(format="rgb24")
            if found > stamp and self._may_jump:  # the jump came too late: from the beginning, once and for all
                self._may_jump = False
                self._container.seek(0)
                self._begin()
                return self.at(stamp, number)
        seconds = (stamp - int(self._info.stamps[0])) * float(self._info.time_base)
        raise InputError(f"{self._info.name} cannot be decoded at frame {number} (second {seconds:.2f}); it is damaged")

    def _begin(self) -> None:
        self._reached = int(self._info.stamps[0]) - 1
        self._frames = self._decoded()

    def _jump(self, stamp: int) -> None:
        key = int(np.searchsorted(self._keys, stamp, side="right")) - 1
        if self._may_jump and key > 0 and self._keys[key] > self._reached:
            self._container.seek(int(self._targets[key]), stream=self._stream)
            self._begin()

    def _decoded(self) -> Iterator[tuple[int, Any]]:
        number = 0
        context = self._stream.codec_context
        for packet in self._container.demux(self._stream):
            self._deadline.check()
            # A frame that no other refers to is not decoded unless it is wanted.
            skipped = packet.size and not self._info.numbered and packet.pts not in self._wanted
            context.skip_frame = "NONREF" if skipped else "DEFAULT"
            for frame in packet.decode():
                stamp = number if self._info.numbered else frame.pts
                number += 1
                if stamp is not None:
                    self._reached = max(self._reached, stamp)
                    yield stamp, frame
