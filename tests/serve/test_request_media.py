"""What a request shows is counted and measured before its frames and samples are decoded; limits are named."""

from __future__ import annotations

import base64
import os
import wave
from pathlib import Path

import pytest
from running_server import ROOT, data_url

from ms_impl.data.media_sources import AUDIO, IMAGE, VIDEO
from ms_impl.errors import InputError
from ms_impl.serve.request_media import RequestMedia
from ms_impl.serve.settings import MediaLimits

CLIP = ROOT / "assets/demo.mp4"
PLACE = "messages.0.content.1"
RATE = 8000

pytest.importorskip("av")
pytest.importorskip("soundfile")


@pytest.fixture
def sound(tmp_path) -> Path:
    """Two seconds of silence."""
    with wave.open(str(tmp_path / "silence.wav"), "wb") as file:
        file.setnchannels(1), file.setsampwidth(2), file.setframerate(RATE)
        file.writeframes(bytes(2 * 2 * RATE))
    return tmp_path / "silence.wav"


@pytest.fixture
def media(tmp_path, monkeypatch):
    """Makes the media of a request within limits of one's own; what decodes them is an error."""

    def decoded(*_, **__):
        raise AssertionError("decoded before it was measured")

    for name in ("video.read_frames", "sound.read_sound"):
        monkeypatch.setattr(f"ms_impl.media.{name}", decoded)

    def made(allowed: Path | None = None, room: int = 1 << 20, **limits) -> RequestMedia:
        directory = tmp_path / "request"
        directory.mkdir(exist_ok=True)
        return RequestMedia(directory, (IMAGE, VIDEO, AUDIO), allowed, MediaLimits(**limits), room)

    return made


def clip_url() -> str:
    return data_url(CLIP, "video/mp4")


def test_clips_within_the_limits_are_taken(media, sound):
    taken = media()
    assert taken.add(VIDEO, clip_url(), PLACE) == "video1"
    assert taken.add(AUDIO, data_url(sound, "audio/wav"), PLACE) == "audio1"
    assert (taken.directory / "video1").read_bytes() == CLIP.read_bytes()
    assert taken.names == ["video1", "audio1"]


@pytest.mark.parametrize(
    ("limits", "said"),
    [
        ({"frames": 3}, "frames are more than the 3 of this server"),
        ({"seconds": 0.5}, "s are more than the 0.5 of this server"),
        ({"pixels": 100}, "pixels are more than the 100 of this server"),
    ],
    ids=["frames", "seconds", "pixels"],
)
def test_a_clip_beyond_a_limit_is_refused(media, limits, said):
    with pytest.raises(InputError, match=f"^{PLACE}: .*{said}"):
        media(**limits).add(VIDEO, clip_url(), PLACE)


def test_a_sound_that_is_too_long_is_refused(media, sound):
    content = base64.b64encode(sound.read_bytes()).decode()
    assert media(seconds=2.0).add_base64(AUDIO, content, PLACE) == "audio1"
    with pytest.raises(InputError, match=f"^{PLACE}: 2.0 s are more than the 1.9 of this server"):
        media(seconds=1.9).add_base64(AUDIO, content, PLACE)


def test_videos_and_sounds_are_counted_together(media, sound):
    taken = media(clips=2)
    taken.add(VIDEO, clip_url(), PLACE)
    taken.add(AUDIO, data_url(sound, "audio/wav"), PLACE)
    for kind, url in ((VIDEO, clip_url()), (AUDIO, data_url(sound, "audio/wav"))):
        with pytest.raises(InputError, match=f"^{PLACE}: more than 2 videos and sounds in a request"):
            taken.add(kind, url, PLACE)


def test_files_that_are_named_have_room_together(media, sound):
    url, size = f"file://{sound}", os.path.getsize(sound)
    taken = media(allowed=sound.parent, room=2 * size)
    assert [taken.add(AUDIO, url, PLACE) for _ in range(2)] == ["audio1", "audio2"]
    with pytest.raises(InputError, match=f"^{PLACE}: the files of this request are larger than this server takes"):
        media(allowed=sound.parent, room=size - 1).add(AUDIO, url, PLACE)
    os.mkfifo(sound.parent / "pipe")  # opening it would wait for ever
    for name in ("pipe", "."):
        with pytest.raises(InputError, match="must name a file below the directory"):
            media(allowed=sound.parent).add(VIDEO, f"file://{sound.parent}/{name}", PLACE)
