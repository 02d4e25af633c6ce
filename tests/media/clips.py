"""Small clips with sound, in which something happens at a known second: the image turns white, and a tone begins."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

RATE = 16000
DARK, BRIGHT = 40, 220


def picture(number: int, height: int, width: int, bright: bool) -> np.ndarray:
    """uint8 [height, width, 3]: its number as a bar of 16 bits, below it the level, brighter on the left."""
    image = np.full((height, width, 3), BRIGHT if bright else DARK, np.uint8)
    image[: height // 2, width // 2 :] //= 2
    bits = np.array([(number >> bit) & 1 for bit in range(16)], np.uint8) * 255
    image[-height // 4 :] = bits[np.arange(width) * 16 // width][None, :, None]
    return image


def number_of(image: np.ndarray) -> int:
    """The number that ``picture`` drew."""
    height, width = image.shape[:2]
    bar = image[-height // 8, :, 0].astype(int)
    return sum(1 << bit for bit in range(16) if bar[int((bit + 0.5) * width / 16)] > 127)


def is_bright(image: np.ndarray) -> bool:
    return int(image[4, 4, 0]) > (DARK + BRIGHT) / 2


def tone(seconds: float, event: float, rate: int = RATE) -> np.ndarray:
    """float32 [samples]: quiet, from ``event`` on a loud tone."""
    t = np.arange(round(seconds * rate)) / rate
    return np.where(t >= event, 0.5 * np.sin(2 * np.pi * 440 * t), 0).astype(np.float32)


def write_clip(
    path: Path, frames: int = 50, rate: Fraction | int = 25, size: tuple[int, int] = (64, 96), event: float = 1.0,
    sound: bool = True, codec: str = "libx264", times: Sequence[float] | None = None, sound_codec: str = "aac",
    sound_rate: int = 48000, sound_offset: float = 0.0, options: dict | None = None,
) -> Path:  # fmt: skip
    """A clip whose frame ``n`` is shown at ``n / rate``, or at ``times[n]`` (milliseconds count)."""
    shown = [number / rate for number in range(frames)] if times is None else list(times)
    with av.open(str(path), "w") as container:
        video = container.add_stream(codec, rate=rate if times is None else 1000, options=options or {"crf": "10"})
        video.height, video.width, video.gop_size = *size, 12
        video.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        base = Fraction(1, 1000) if times is not None else 1 / Fraction(rate)
        video.codec_context.time_base = base
        audio = container.add_stream(sound_codec, rate=sound_rate, layout="mono") if sound else None
        for number, second in enumerate(shown):
            frame = av.VideoFrame.from_ndarray(picture(number, *size, float(second) >= event), format="rgb24")
            frame.pts, frame.time_base = round(second / base), base
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        if audio is not None:
            seconds = float(shown[-1]) + (1 / float(rate) if times is None else 0.1)
            write_sound(container, audio, tone(seconds - sound_offset, event - sound_offset, sound_rate), sound_rate,
                        sound_offset)  # fmt: skip
    return path


def write_sound(container, stream, samples: np.ndarray, rate: int, offset: float) -> None:
    for start in range(0, len(samples), 1024):
        block = samples[start : start + 1024]
        frame = av.AudioFrame.from_ndarray(block[None], format="fltp", layout="mono")
        frame.sample_rate, frame.time_base = rate, Fraction(1, rate)
        frame.pts = start + round(offset * rate)
        container.mux(stream.encode(frame))
    container.mux(stream.encode(None))


def turned(source: Path, path: Path, quarter_turns: int) -> Path:
    """The clip with a header that says it is to be shown turned clockwise by quarter turns."""
    matrices = {1: (0, 1, -1, 0), 2: (-1, 0, 0, -1), 3: (0, -1, 1, 0)}
    a, b, c, d = (value << 16 for value in matrices[quarter_turns])
    data = bytearray(source.read_bytes())
    place = data.index(b"tkhd") + 4 + 40  # version and flags, times, id, duration, reserved, layer …, volume
    data[place : place + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(data)
    return path


def ten_hours(source: Path, path: Path) -> Path:
    """The MP4 or Matroska file with a header that promises ten hours."""
    data = bytearray(source.read_bytes())
    if source.suffix == ".mkv":
        struct.pack_into(">d", data, data.index(b"\x44\x89\x88") + 3, 36_000_000.0)
    else:
        for box in (b"mvhd", b"mdhd"):
            start = data.index(box)
            (scale,) = struct.unpack_from(">I", data, start + 16)
            struct.pack_into(">I", data, start + 20, 36_000 * scale)
    path.write_bytes(data)
    return path
