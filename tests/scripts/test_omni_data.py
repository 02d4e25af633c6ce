"""The data of the small omni model: answers are true of the files, and a seed makes the same ones again."""

import json
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile

SCRIPT = Path(__file__).parents[2] / "scripts/small_models/omni_data.py"
COUNTS = ["--questions", "8", "4", "--words", "12", "6", "--clips", "6", "4"]


def make(folder: Path) -> subprocess.CompletedProcess:
    command = [sys.executable, str(SCRIPT), "--output_path", str(folder), *COUNTS]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("omni") / "data"
    assert make(folder).returncode == 0
    return folder


def records(file: Path) -> list[dict]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def decoded(path: Path) -> tuple[np.ndarray, np.ndarray | None]:
    """Frames [n, H, W, 3] and sound [samples] of a clip."""
    with av.open(str(path)) as file:
        frames = np.stack([frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)])
    with av.open(str(path)) as file:
        has_sound = bool(file.streams.audio)
        sound = np.concatenate([frame.to_ndarray()[0] for frame in file.decode(audio=0)]) if has_sound else None
    return frames, sound


def test_every_file_that_a_record_names_is_there(data):
    for file in data.glob("*.jsonl"):
        for each in records(file):
            (path,) = each.get("images") or each.get("audios") or each["videos"]
            assert (data / path).is_file()
            assert each["messages"][0]["content"].startswith("<")


def test_a_shape_changes_its_colour_at_the_second_of_the_answer(data):
    for each in records(data / "train_clips.jsonl")[0::2]:
        frames, sound = decoded(data / each["videos"][0])
        changes = np.abs(np.diff(frames.astype(int), axis=0)).mean((1, 2, 3))
        assert sound is None
        assert abs((changes.argmax() + 1) / 4 - int(each["messages"][1]["content"])) <= 0.5 + 1 / 4


def test_a_tone_sounds_at_the_second_of_the_answer(data):
    for each in records(data / "train_clips.jsonl")[1::2]:
        _, sound = decoded(data / each["videos"][0])
        loud = np.flatnonzero(np.abs(sound) > 0.2)
        assert abs(loud[0] / 16000 - int(each["messages"][1]["content"])) <= 0.6
        assert len(loud) and (loud[-1] - loud[0]) / 16000 < 0.8


def test_words_are_heard_and_differ_by_voice(data):
    words = records(data / "train_words.jsonl")
    assert len({each["messages"][1]["content"] for each in words}) == 10
    sounds = [soundfile.read(data / each["audios"][0])[0] for each in words]
    assert all(np.abs(sound).max() > 0.1 for sound in sounds)


def test_a_seed_makes_the_same_records_again(data, tmp_path):
    assert make(tmp_path / "again").returncode == 0
    for file in data.glob("*.jsonl"):
        assert file.read_bytes() == (tmp_path / "again" / file.name).read_bytes()
    for file in data.glob("words/*/*.flac"):
        assert file.read_bytes() == (tmp_path / "again" / file.relative_to(data)).read_bytes()


def test_a_directory_that_exists_is_kept(data):
    again = make(data)
    assert again.returncode == 2 and "already exists" in again.stderr
