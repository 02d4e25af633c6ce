"""A clip drawn along its time: what happens at a second stands at that second, in frames, sound and marks alike."""

import numpy as np
import pytest
import soundfile
from clips import RATE, tone, write_clip

from ms_impl.errors import InputError
from ms_impl.media.timeline import ANSWER, TRUTH, WIDTH, Mark, answer_marks, clip_seconds, draw_timeline, times_in

MARGIN = 24
SECONDS, EVENT = 10, 6.0


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return write_clip(tmp_path_factory.mktemp("timeline") / "clip.mp4", 100, 10, (56, 84), event=EVENT)


def columns(image: np.ndarray, colour) -> np.ndarray:
    """The columns in which that colour crosses the whole image."""
    found = (np.abs(image.astype(int) - colour).max(axis=2) < 8).sum(axis=0)
    return np.flatnonzero(found > image.shape[0] // 2)


def second_at(column: float) -> float:
    return (column - MARGIN) / (WIDTH - 2 * MARGIN - 1) * SECONDS


def test_marks_frames_and_sound_agree_on_the_second(clip):
    marks = [Mark(EVENT, "event", TRUTH), Mark(7.5, "answer")]
    image = np.asarray(draw_timeline(clip, marks))
    for colour, seconds in ((TRUTH, EVENT), (ANSWER, 7.5)):
        assert abs(second_at(columns(image, colour).mean()) - seconds) < 0.03
    waves = np.flatnonzero((image.reshape(-1, WIDTH, 3) == (70, 120, 190)).all(axis=2).sum(axis=0) > 20)
    assert abs(second_at(waves.min()) - EVENT) < 0.1
    drawn = np.asarray(draw_timeline(clip))[MARGIN + 20]  # without marks the frames are at the top
    bright = np.flatnonzero((drawn.min(axis=1) > 200) & (drawn.max(axis=1) < 250))
    assert 6 <= second_at(bright.min()) < 7.5 and second_at(bright.min()) == pytest.approx(20 / 3, abs=0.1)


def test_without_sound_and_without_frames_the_image_is_lower(clip, tmp_path):
    silent = write_clip(tmp_path / "silent.mp4", 100, 10, (56, 84), sound=False)
    soundfile.write(tmp_path / "a.wav", tone(SECONDS, EVENT), RATE)
    heights = [draw_timeline(path).height for path in (clip, silent, tmp_path / "a.wav")]
    assert heights[0] > heights[1] > heights[2]
    assert clip_seconds(tmp_path / "a.wav") == SECONDS and clip_seconds(silent) == SECONDS


@pytest.mark.parametrize("text, seconds", [
    ("17", [17]), (" 17.5. ", [17.5]), ("It changes at 3 s.", [3]), ("from 2 seconds to 4.5 seconds", [2, 4.5]),
    ("at second 12", [12]), ("at 0:05 and 1:02:03", [5, 3723]), ("3s, 3s and 5 s", [3, 5]), ("第 7 秒", [7]),
    ("12 shapes", []), ("no number", []), ("4000 s", []),
])  # fmt: skip
def test_the_seconds_that_an_answer_names(text, seconds):
    assert times_in(text, 3800) == seconds
    assert [mark.seconds for mark in answer_marks(text, 3800)] == seconds


def test_what_is_no_clip_is_refused(tmp_path):
    (tmp_path / "x.mp4").write_bytes(b"no video at all")
    with pytest.raises(InputError, match="x.mp4"):
        draw_timeline(tmp_path / "x.mp4")
