"""Evaluation asks what training shows: a record's prompt and its question are the same ids, columns and positions."""

import json
import shutil

import numpy as np
import pytest
import soundfile
from PIL import Image

from ms_impl.data.media_sources import Medium
from ms_impl.data.records import parse_record
from ms_impl.errors import InputError
from ms_impl.evaluate.data_set import DataSet
from ms_impl.evaluate.evaluation import Evaluation
from ms_impl.generate.config import GenerationConfig
from ms_impl.qwen2_5_omni.queries import marked, split


@pytest.fixture
def template(make_template, tmp_path):
    """With files a.png, 0.png to 3.png and a.wav."""
    for name in ("a", *"0123"):
        Image.new("RGB", (84, 56), (40, 90, 200)).save(tmp_path / f"{name}.png")
    soundfile.write(tmp_path / "a.wav", np.sin(np.arange(16_000) / 20).astype(np.float32) / 4, 16_000)
    return make_template(dataset_dir=str(tmp_path))


def record(*texts, **media):
    roles = ("user", "assistant")
    return {"messages": [{"role": roles[n % 2], "content": text} for n, text in enumerate(texts)], **media}


FRAMES = [f"{number}.png" for number in range(4)]


@pytest.mark.parametrize(
    "given",
    [
        record("What?", "This."),
        record("<image>What?", "This.", "<audio>And this?", "A tone.", images=["a.png"], audios=["a.wav"]),
        record("What?<video>", "This.", videos=[{"path": FRAMES, "sample_fps": 2.0}], system="Be brief."),
        record("<image>\nWhere?", "<ref-object> <bbox>", image="a.png", objects={"ref": ["it"], "bbox": [[0, 0, 42, 28]]}),
        record("Picture 1: <img>a.png</img>\nWhat?", "This."),
    ],
)  # fmt: skip
def test_evaluation_asks_what_training_shows(template, given):
    conversation = parse_record(given, "x")
    dialogue = template.dialogue(conversation)
    *history, (query, answer) = dialogue.turns
    asked = template.encode_turn(query, history, dialogue.system, dataset_dir=template.options.dataset_dir)
    whole = template.sample(conversation)
    assert asked.input_ids.tolist() == whole.input_ids[: len(asked)].tolist()
    assert asked.position_ids.tolist() == whole.position_ids[:, : len(asked)].tolist()
    assert [medium.columns.tolist() for medium in asked.media] == [m.columns.tolist() for m in whole.media]
    rest = template.tokenizer.decode(whole.input_ids[len(asked) :].tolist())
    assert rest == f"{answer}<|im_end|>" and set(dialogue.images) <= {"a.png"}


def test_media_with_options_stand_in_a_query_whole():
    media = [
        Medium("image", "a.png"), Medium("video", ("0.png", "1.png"), (("fps", 2), ("use_audio_in_video", True))),
        Medium("audio", "{odd}.wav"), Medium("video", "a.mp4", (("video_start", 1.5),)),
    ]  # fmt: skip
    kinds = {"image", "video", "audio"}
    text = marked("<image>a<video>b<audio><video>c", iter(media), kinds)
    assert text.startswith("<img>a.png</img>a<video>{") and split(text)[1] == media


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (record("Hi", "<image>", images=["a.png"]), "turn 1 shows media; only a question can"),
        (record("Hi", "a", system="<audio>", audios=["a.wav"]), "the system message shows media"),
        ({"messages": [{"role": "user", "content": "a"}] * 2}, "turn 1 is the user's"),
        (record("<image>", "a", images=[{"path": "a.png", "detail_level": 3}]), "unknown detail_level"),
    ],
)
def test_what_a_chat_cannot_be_asked(template, given, reason):
    with pytest.raises(InputError, match=reason):
        template.dialogue(parse_record(given, "x"))


def speech(tmp_path, template, *records, metric="wer", **shown):
    path = tmp_path / "records.json"
    path.write_text(json.dumps(records))
    options = {"dataset_dir": str(tmp_path), **shown}
    return Evaluation(DataSet("asked", path, metric, 2, 8, None, options), template, GenerationConfig())


def test_an_evaluation_of_sounds_videos_and_images(template, tmp_path):
    told = record("<audio>What is said?", "A long beep.", audios=["a.wav"])
    shown = record("<image><video>Which?", "none", image="a.png", videos=[{"path": FRAMES, "sample_fps": 2}])
    evaluation = speech(tmp_path, template, told, shown)
    assert [len(evaluation._sample(question).media) for question in evaluation.questions] == [1, 2]
    log = evaluation.log(tmp_path / "answers", "digest of the weights")
    with log.append(0) as writer:
        writer.write(0, ["a short beep", "None!"])
    result = evaluation.score(log, tmp_path / "asked.jsonl")
    assert result.scores["wer"] == 0.25
    lines = [json.loads(line) for line in (tmp_path / "asked.jsonl").read_text().splitlines()]
    assert [line["score"] for line in lines] == [pytest.approx(1 / 3), 0]


def test_an_evaluation_of_video_files(template, tmp_path, silent_clip):
    """Each is decoded once before anything is asked, whoever shows it."""
    shutil.copy(silent_clip, tmp_path / "a.mp4")
    shown = [record("<video>When?", "1", videos=["a.mp4"]), record("<video>How long?", "2 s", videos=["a.mp4"])]
    evaluation = speech(tmp_path, template, *shown, metric="seconds")
    sources = {medium.source for question in evaluation.questions for medium in evaluation._sample(question).media}
    assert len(sources) == 1


def test_a_sound_that_cannot_be_read_is_found_before_anything_is_asked(template, tmp_path):
    (tmp_path / "cut.wav").write_bytes((tmp_path / "a.wav").read_bytes()[:20])
    for name in ("cut.wav", "no.wav"):
        with pytest.raises(InputError, match=f"records.json: record 0: .*{name}"):
            speech(tmp_path, template, record("<audio>What?", "This.", audios=[name]))


def test_grounding_is_scored_in_pixels_as_the_model_sees_them(template, tmp_path):
    """a.png has 84×56 pixels, which the model sees as they are."""
    given = [
        record("<image>Where?", "x", image="a.png") | {"bbox": [0, 0, 42, 28]},
        record("<image>Where?", "<|box_start|>(0,0),(42,28)<|box_end|>", image="a.png"),
    ]
    evaluation = speech(tmp_path, template, *given, metric="grounding")
    answers = ["<|box_start|>(0,0),(21,28)<|box_end|>"] * 2
    assert evaluation.metric.scores(evaluation.questions, answers) == [0.5, 0.5]


@pytest.mark.parametrize("bbox_format, norm_bbox, answer", [
    ("legacy", False, "<|box_start|>(0,0),(21,28)<|box_end|>"), ("new", False, "[0, 0, 21, 28]"),
    ("legacy", True, "<|box_start|>(0,0),(250,500)<|box_end|>"), ("new", True, "[0, 0, 250, 500]"),
])  # fmt: skip
def test_grounding_in_each_style_of_boxes(template, tmp_path, bbox_format, norm_bbox, answer):
    """The data set says the style; the right box is in pixels of the file, which the model sees at a tenth."""
    Image.new("RGB", (840, 560)).save(tmp_path / "large.png")
    asked = record("<image>Where?", "x", image="large.png") | {"bbox": [0, 0, 420, 280]}
    shown = {"bbox_format": bbox_format, "norm_bbox": norm_bbox, "max_pixels": 84 * 56}
    evaluation = speech(tmp_path, template, asked, metric="grounding", **shown)
    assert evaluation.metric.scores(evaluation.questions, [answer]) == [0.5]
    assert evaluation.metric.scores(evaluation.questions, ["<|box_start|>(0,0),(420,280)<|box_end|>"]) != [1.0]


def test_options_change_and_files_stay(template):
    changed = template.with_options(bbox_format="new")
    assert changed.boxes.write([(1, 2), (3, 4)]) == "[1, 2, 3, 4]" and changed.tokenizer is template.tokenizer
    with pytest.raises(InputError, match="unknown option"):
        template.with_options(colour=3)


def test_asked_for_a_rate_or_a_number_of_frames_a_fixed_number_gives_way(template):
    fixed = template.with_options(frames=64)
    assert fixed.with_options(bbox_format="new").options.frames == 64
    assert fixed.with_options(fps=1.0).options.frames == fixed.with_options(nframes=8).options.frames == 0
    assert fixed.with_options(fps=1.0, frames=32).options.frames == 32
