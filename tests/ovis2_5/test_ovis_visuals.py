"""Videos as files and as frames: which frames are shown, and what is wrong with a file."""

import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "media"))

from clips import number_of, write_clip

from ms_impl.data.records import parse_record
from ms_impl.errors import InputError
from ms_impl.ovis2_5.preprocessing import chosen_frames, evenly
from ms_impl.ovis2_5.template import VISUALS
from ms_impl.ovis2_5.visuals import FrameList, choose_frames


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """2 s at 25 frames a second, 96 × 64 pixels."""
    return write_clip(tmp_path_factory.mktemp("clip") / "clip.mp4", sound=False)


def numbers(video) -> list[int]:
    return [number_of(np.asarray(frame)) for frame in video.read()]


def test_an_answers_frames_are_even(clip):
    video = choose_frames(clip, partial(evenly, count=8))
    assert numbers(video) == [0, 6, 12, 18, 25, 31, 37, 43]
    assert video.probe() == (96, 64, 8)


def test_trainings_frames_are_the_originals(clip):
    video = choose_frames(clip, partial(chosen_frames, least=8, most=8), by_seconds=True)
    assert numbers(video) == chosen_frames(50, 8, 8)


def test_frames_are_chosen_from_a_list(ovis_folder):
    paths = tuple(str(path) for path in sorted(ovis_folder.glob("frame*.png")))
    video = choose_frames(paths, partial(evenly, count=2))
    assert isinstance(video, FrameList) and video.frames == (paths[0], paths[len(paths) // 2])


def test_a_record_with_a_video_file(make_template, clip):
    template = make_template(dataset_dir=str(clip.parent), min_frames=4, max_frames=4)
    turns = [{"from": "human", "value": "<video>\nWhat?"}, {"from": "gpt", "value": "A bar."}]
    sample = template.sample(parse_record({"conversations": turns, "video": "clip.mp4"}, "data.json, record 0"))
    (visual,) = [medium for medium in sample.media if medium.kind == VISUALS.name]
    frames, rows, columns = visual.geometry
    assert frames == 4 and len(visual.columns) == frames * rows * columns // 4
    template.check_medium(visual)
    turn = template.with_options(num_frames=3).encode_turn(
        [{"video": str(clip)}, {"text": "What?"}], None, None, Thinks
    )
    assert turn.media[0].geometry[0] == 3


class Thinks:
    enable_thinking = True


@pytest.mark.parametrize("kind", ["empty", "text", "cut off"])
def test_a_file_that_is_no_video_is_named(make_template, clip, tmp_path, kind):
    whole = clip.read_bytes()
    content = {"empty": b"", "text": b"no video", "cut off": whole[: len(whole) // 2]}[kind]
    (tmp_path / "bad.mp4").write_bytes(content)
    turns = [{"from": "human", "value": "<video>What?"}, {"from": "gpt", "value": "a"}]
    record = parse_record({"conversations": turns, "video": "bad.mp4"}, "data.json, record 0")
    with pytest.raises(InputError, match="^data.json, record 0: .*bad.mp4"):
        make_template(dataset_dir=str(tmp_path)).sample(record)
