"""Sounds of every kind come out as librosa would have them, and a video's sound begins with its first frame."""

import struct

import av
import numpy as np
import pytest
import soundfile
import soxr
from clips import tone, write_clip, write_sound

from ms_impl.errors import InputError
from ms_impl.media.sound import probe_sound, read_sound, sound_of
from ms_impl.media.video import probe_video


def music(rate: int, seconds: float = 1.3, channels: int = 1) -> np.ndarray:
    """float32 [samples, channels]"""
    t = np.arange(round(seconds * rate)) / rate
    parts = [np.sin(2 * np.pi * (300 + 150 * c) * t) * np.exp(-t * (c + 1)) for c in range(channels)]
    return (0.5 * np.stack(parts, 1)).astype(np.float32)


def as_librosa(path) -> np.ndarray:
    """librosa.load(path, sr=16000): the channels' mean, resampled in one piece, as long as the rates say."""
    samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
    mono = samples.mean(axis=1)
    length = -(-len(mono) * 16000 // rate)
    resampled = mono if rate == 16000 else soxr.resample(mono, rate, 16000, quality="HQ")
    return np.pad(resampled[:length], (0, max(0, length - len(resampled))))


KINDS = [
    ("wav", "PCM_U8", 8000, 1), ("wav", "PCM_16", 16000, 1), ("wav", "PCM_16", 44100, 2), ("wav", "PCM_24", 96000, 2),
    ("wav", "FLOAT", 48000, 6), ("wav", "DOUBLE", 22050, 1), ("flac", "PCM_16", 48000, 2), ("ogg", "VORBIS", 44100, 2),
    ("mp3", "MPEG_LAYER_III", 44100, 2), ("aiff", "PCM_16", 32000, 1), ("wav", "ULAW", 8000, 1),
]  # fmt: skip


@pytest.mark.parametrize(("ending", "subtype", "rate", "channels"), KINDS)
def test_kinds(tmp_path, ending, subtype, rate, channels):
    path = tmp_path / f"sound.{ending}"
    soundfile.write(path, music(rate, channels=channels), rate, subtype=subtype)
    info, expected = probe_sound(path), as_librosa(path)
    found = read_sound(info)
    assert found.dtype == np.float32 and info.samples == len(found) == len(expected)
    assert np.abs(found - expected).max() < 2e-6


def test_values_do_not_depend_on_blocks(tmp_path, monkeypatch):
    path = tmp_path / "sound.wav"
    soundfile.write(path, music(44100, channels=2), 44100, subtype="FLOAT")
    whole = read_sound(probe_sound(path))
    monkeypatch.setattr("ms_impl.media.sound._BLOCK", 1000)
    assert np.abs(read_sound(probe_sound(path)) - whole).max() < 2e-6


@pytest.mark.parametrize(("first", "samples"), [(0, 10), (5000, 9000), (20_000, 800), (20_790, 10)])
def test_a_part_is_that_of_the_whole(tmp_path, first, samples, monkeypatch):
    path = tmp_path / "sound.wav"
    soundfile.write(path, music(44100), 44100, subtype="FLOAT")
    monkeypatch.setattr("ms_impl.media.sound._BLOCK", 3000)
    whole = read_sound(probe_sound(path))
    np.testing.assert_array_equal(read_sound(probe_sound(path), first=first, samples=samples), whole[first:][:samples])


def by_av(path, codec: str, rate: int = 44100, seconds: float = 1.5, event: float = 0.5):
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, layout="mono")
        write_sound(container, stream, tone(seconds, event, rate), rate, 0.0)
    return path


@pytest.mark.parametrize(("name", "codec"), [("a.m4a", "aac"), ("a.webm", "libopus"), ("a.mka", "flac")])
def test_what_soundfile_does_not_know_pyav_does(tmp_path, name, codec):
    rate = 48000 if codec == "libopus" else 44100
    info = probe_sound(by_av(tmp_path / name, codec, rate))
    found = read_sound(info)
    assert len(found) == info.samples and abs(len(found) / 16000 - 1.5) < 0.06
    onset = np.argmax(np.abs(found) > 0.2) / 16000
    assert abs(onset - 0.5) < 0.01


def test_mp3_in_wav(tmp_path):
    mp3 = by_av(tmp_path / "a.mp3", "libmp3lame").read_bytes()
    body = mp3[mp3.index(b"\xff\xfb") :]
    form = struct.pack("<HHIIHHHHIHHH", 0x55, 1, 44100, 16000, 1, 0, 12, 1, 2, 417, 1, 1393)
    chunks = b"WAVEfmt " + struct.pack("<I", len(form)) + form + b"data" + struct.pack("<I", len(body)) + body
    path = tmp_path / "mp3.wav"
    path.write_bytes(b"RIFF" + struct.pack("<I", len(chunks)) + chunks)
    found = read_sound(probe_sound(path))
    assert abs(len(found) / 16000 - 1.5) < 0.1 and 0.3 < np.abs(found).max() < 0.7


def test_the_sound_of_a_clip_begins_with_its_first_frame(clip):
    info = sound_of(probe_video(clip))
    found = read_sound(info)
    assert abs(np.argmax(np.abs(found) > 0.2) / 16000 - 1.0) < 0.005
    assert len(found) == info.samples and abs(len(found) / 16000 - 2) < 0.05


@pytest.mark.parametrize("ending", ["mp4", "mkv"])
@pytest.mark.parametrize("offset", [0.7, 0.0])
def test_a_sound_that_begins_later_is_preceded_by_silence(tmp_path, ending, offset):
    path = write_clip(tmp_path / f"late.{ending}", frames=75, event=2.0, sound_offset=offset)
    found = read_sound(sound_of(probe_video(path)))
    assert abs(np.argmax(np.abs(found) > 0.2) / 16000 - 2.0) < 0.01
    assert not np.abs(found[: int(16000 * max(offset - 0.05, 0))]).any()


def test_a_silent_clip_has_no_sound(tmp_path):
    assert sound_of(probe_video(write_clip(tmp_path / "silent.mp4", sound=False))) is None


def wav(path, samples, **options):
    soundfile.write(path, samples, 16000, **options)
    return path


BAD = {
    "missing": (lambda path: path, "does not exist"),
    "empty": (lambda path: path.touch() or path, "is empty: a file of 0 bytes"),
    "text": (lambda path: path.write_text("no sound " * 99) and path, "not a video or sound of a known format"),
    "no samples": (lambda path: wav(path, np.zeros(0, np.float32)), "has no samples"),
    "not a number": (lambda path: wav(path, np.array([0, np.nan] * 99, np.float32), subtype="FLOAT"), "not numbers"),
    "no sound": (lambda path: write_clip(path.with_suffix(".mp4"), sound=False).rename(path), "holds no sound"),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_files_are_named(tmp_path, kind):
    make, message = BAD[kind]
    path = make(tmp_path / "bad.wav")
    with pytest.raises(InputError, match=message) as raised:
        read_sound(probe_sound(path))
    assert f"audio '{path}'" in str(raised.value)


def test_a_header_that_promises_more_is_not_believed(tmp_path):
    path = wav(tmp_path / "long.wav", np.ones(800, np.float32) / 2)
    data = bytearray(path.read_bytes())
    struct.pack_into("<I", data, data.index(b"data") + 4, 0x7FFFFFF0)
    path.write_bytes(data)
    assert probe_sound(path).samples == 800
