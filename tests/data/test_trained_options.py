"""The limits and rates that a checkpoint was trained with: kept, taken again where nobody says otherwise, and compared."""

import json
import logging

import pytest

from ms_impl import families
from ms_impl.data.trained_options import NAME, as_file, changed, told
from ms_impl.errors import InputError
from ms_impl.qwen2_5_omni.options import ENVIRONMENT, KEPT


@pytest.fixture
def make(tiny_omni, monkeypatch):
    for name in ENVIRONMENT:
        monkeypatch.delenv(name, raising=False)
    family = families.get("qwen2_5_omni")
    return lambda *checkpoints, **options: family.make_template(tiny_omni / "model", None, checkpoints, **options)


@pytest.fixture
def trained(make, tmp_path):
    """A checkpoint's directory that tells the options it was trained with."""
    for name, content in as_file(make(fps=1.0, use_audio_in_video=True)).items():
        (tmp_path / name).write_bytes(content)
    return tmp_path


def test_all_that_decides_what_is_seen_is_kept(trained):
    assert tuple(json.loads((trained / NAME).read_text())) == KEPT


def test_what_was_trained_counts_before_the_default(make, trained, caplog):
    options = make(trained).options
    assert (options.fps, options.use_audio_in_video, options.frames) == (1.0, True, 0)
    assert (make().options.fps, make(None, trained / "no").options.fps) == (2.0, 2.0)
    assert not caplog.records


def test_caller_and_environment_count_before_it_and_are_told(make, trained, monkeypatch, caplog):
    monkeypatch.setenv("FPS", "4")
    with caplog.at_level(logging.WARNING):
        assert make(trained, use_audio_in_video=False).options.fps == 4.0
    assert sorted(record.getMessage() for record in caplog.records) == [
        "fps: 4.0, but the model was trained with 1.0",
        "use_audio_in_video: False, but the model was trained with True",
    ]


def test_options_on_one_line(make):
    template = make(fps=1.0)
    assert "fps 1.0, fps_min_frames 4" in told(template) and changed(template) == "fps 1.0"


@pytest.mark.parametrize("content", ["[]", '{"fps": [1]}', "x"])
def test_a_file_that_holds_no_options(make, trained, content):
    (trained / NAME).write_text(content)
    with pytest.raises(InputError, match=NAME):
        make(trained)


def test_a_family_that_keeps_none_writes_no_file(tmp_path):
    (tmp_path / NAME).write_text('{"fps": 1.0}')
    from ms_impl.data.trained_options import read

    assert read([tmp_path], families.get("qwenvl").resolve("template").kept_options) == {}
