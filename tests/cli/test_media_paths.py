"""Media of a command line: files, and a directory that stands for a video."""

from pathlib import Path

import pytest

from ms_impl.cli.media_paths import medium_path
from ms_impl.cli.prompts import queries, with_files
from ms_impl.errors import InputError


@pytest.fixture
def frames(tmp_path) -> Path:
    """Images by number, of which a plain order of names would show the tenth before the second, and a hidden file."""
    directory = tmp_path / "frames"
    directory.mkdir()
    for name in ("frame10.png", "frame2.png", "frame1.JPG", ".DS_Store"):
        (directory / name).touch()
    return directory


def test_a_videos_directory_is_its_frames_by_number(frames):
    found = medium_path("video", str(frames))
    assert found == [str(frames / name) for name in ("frame1.JPG", "frame2.png", "frame10.png")]
    prompts = with_files(queries([str(frames), "What?", str(frames), "Why?"], ["video", "text"]))
    assert prompts == [[{"video": found}, {"text": "What?"}], [{"video": found}, {"text": "Why?"}]]


def test_what_is_no_directory_of_frames_is_named(frames, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="empty' is a directory without frames"):
        medium_path("video", str(tmp_path / "empty"))
    (frames / "notes.txt").touch()
    with pytest.raises(InputError, match="frames': 'notes.txt' is no image"):
        with_files([[{"video": str(frames)}]])
    for kind in ("image", "audio"):
        with pytest.raises(InputError, match=f"^--predict_data: {kind} .*frames' is not a file"):
            with_files([[{kind: str(frames)}]])


def test_a_text_that_names_a_directory_is_text(frames):
    assert with_files([[{"text": str(frames)}]]) == [[{"text": str(frames)}]]
