"""Records in all layouts become one form of conversation; what cannot be trained on as it stands is refused by name."""

import json
from pathlib import Path

import pytest
from PIL import Image
from released_template import released_template

from ms_impl.data.records import parse_record
from ms_impl.errors import InputError

ANSWER = {"from": "gpt", "value": "red"}
EXPECTED = "Picture 1: <img>a.png</img>\nwhat color?"


def llava(question="<image>\nwhat color?", image="a.png", **changes):
    return {"image": image, "conversations": [{"from": "human", "value": question}, ANSWER]} | changes


def message(content, **changes):
    return {"messages": [{"role": "user", "content": content}, {"role": "assistant", "content": "red"}]} | changes


def part(kind, value):
    return {"type": kind, kind: value}


URL = {"type": "image_url", "image_url": {"url": "a.png"}}
TEXT = part("text", "what color?")


@pytest.fixture
def texts(tokenizer):
    """Each message of a record's sample as text, and the sample."""

    def texts(record, **style):
        sample = released_template(tokenizer, 2048, **style).sample(parse_record(record, "a.json: record 7"))
        decoded = tokenizer.decode(sample.input_ids)
        return [piece.split("\n", 1)[1] for piece in decoded.removesuffix("<|im_end|>\n").split("<|im_end|>\n")], sample

    return texts


def sources(sample):
    return [image.source for image in sample.media]


def trained(tokenizer, sample):
    return tokenizer.decode([int(label) for label in sample.labels if label >= 0])


@pytest.mark.parametrize(
    "record",
    [
        {"conversations": [{"from": "user", "value": EXPECTED}, {"from": "assistant", "value": "red"}]},
        {
            "image": "a.png",
            "conversations": [{"from": "user", "value": EXPECTED}, {"from": "assistant", "value": "red"}],
        },
        llava(),
        llava(image=["a.png"]),
        llava("<image>what color?"),
        llava(video=None, audios=[], objects={}, system=None),
        llava(conversations=[{"from": "user", "value": "<image>\nwhat color?"}, {"from": "assistant", "value": "red"}]),
        {"images": ["a.png"], "conversations": message("<image>what color?")["messages"]},
        message("<image>what color?", images=["a.png"]),
        message("<image>what color?", images="a.png"),
        message("<image>what color?", images=[{"bytes": None, "path": "a.png"}]),
        message([URL, TEXT]),
        message([part("image", "a.png"), TEXT]),
        message([{"type": "image"}, TEXT], images=["a.png"]),
        message([{"type": "image_url", "image_url": "a.png"}, TEXT]),
        message(EXPECTED),
    ],
)
def test_the_layouts_say_the_same(texts, tokenizer, record):
    messages, sample = texts(record)
    assert messages == ["You are a helpful assistant.", EXPECTED, "red"]
    assert sources(sample) == ["a.png"]
    assert trained(tokenizer, sample).endswith("red<|im_end|>\n")


def test_the_llava_record_of_a_report(texts):
    (record,) = json.loads((Path(__file__).parent / "llava.json").read_text())
    assert sources(texts(record)[1]) == ["a.png"]


def test_images_stand_where_their_placeholders_do_and_are_counted(texts):
    turns = [{"from": "human", "value": "<image><image>\nTwo?"}, {"from": "gpt", "value": "This: <image>"}]
    record = {"images": ["a b.png", "100%25.png", "é.png"], "conversations": turns}
    messages, sample = texts(record)
    assert messages[1:] == [
        "Picture 1: <img>a b.png</img>\nPicture 2: <img>100%25.png</img>\nTwo?",
        "This: Picture 3: <img>é.png</img>\n",
    ]
    assert sources(sample) == ["a b.png", "100%25.png", "é.png"]


def test_objects_are_written_as_boxes(texts, tmp_path):
    Image.new("RGB", (800, 400)).save(tmp_path / "a.png")
    objects = {"ref": ["a dog"], "bbox": [[80, 100, 800, 200]]}
    turns = [{"role": "user", "content": "<image>Where is <ref-object>?"}, {"role": "assistant", "content": "<bbox>"}]
    messages, _ = texts({"messages": turns, "images": "a.png", "objects": objects}, dataset_dir=str(tmp_path))
    assert messages[1].endswith("Where is <ref>a dog</ref>?") and messages[2] == "<box>(100,250),(999,500)</box>"


def test_a_file_url_is_its_path(texts):
    assert sources(texts(message("<image>What?", images="file:///data/a.png"))[1]) == ["/data/a.png"]


@pytest.mark.parametrize(
    "record",
    [
        llava("What?", None, conversations=[{"from": "system", "value": "Be brief."}, *llava("Hi")["conversations"]]),
        llava("What?", None, system="Be brief."),
        message("What?", messages=[{"role": "system", "content": "Be brief."}, *message("Hi")["messages"]]),
        message("What?", system="Be brief."),
    ],
)
def test_a_record_may_have_its_own_system_message(texts, tokenizer, record):
    messages, sample = texts(record, system_message="Not this.")
    assert messages[0] == "Be brief." and len(messages) == 3
    assert "brief" not in trained(tokenizer, sample)


def test_messages_have_standard_roles_whatever_the_files_words_are(texts):
    style = {"user_role_name": "assistant", "assistant_role_name": "user"}
    assert texts(message("What?"), **style)[0][1:] == ["What?", "red"]


def test_several_turns_of_one_role_train_as_in_the_original(tokenizer):
    turns = [("user", "a"), ("user", "b"), ("assistant", "c"), ("assistant", "d")]
    record = {"conversations": [{"from": role, "value": text} for role, text in turns]}
    encoder = released_template(tokenizer)
    sample = encoder.sample(parse_record(record, "x"))
    assert trained(tokenizer, sample).count("c<|im_end|>\n") == trained(tokenizer, sample).count("d<|im_end|>\n") == 1
    assert encoder.counts == {"several turns of one role in a row": 1}


@pytest.mark.parametrize("excluded", [{"loss": False}, {"loss_scale": 0}, {"weight": 0}])
def test_a_turn_may_be_excluded_from_training(texts, tokenizer, excluded):
    turns = [("user", "a"), ("assistant", "secret"), ("user", "b"), ("assistant", "told")]
    record = {"messages": [{"role": role, "content": text} for role, text in turns]}
    whole = texts(record)[1]
    record["messages"][1] |= excluded
    messages, sample = texts(record)
    assert messages[2] == "secret"
    assert sample.input_ids.tolist() == whole.input_ids.tolist()
    begins = tokenizer.encode_message("secret")[0]
    start = sample.input_ids.tolist().index(begins) - 3  # <|im_start|>assistant, newline
    end = start + len([tokenizer.im_start_id, *tokenizer.encode_message("assistant\nsecret"), tokenizer.im_end_id, 1])
    assert (sample.labels[start:end] == -100).all()
    assert sample.labels[end:].tolist() == whole.labels[end:].tolist()
    assert sample.labels[:start].tolist() == whole.labels[:start].tolist()


REFUSED = [
    (llava("what color?"), "0 <image> in its turns, but 1 images are given"),
    (llava("<image><image>"), "2 <image> in its turns, but 1 images"),
    (llava(image=None), "1 <image> in its turns, but 0 images"),
    (llava(image=["a.png", "b.png"]), "1 <image> in its turns, but 2 images"),
    (llava(EXPECTED, ["a.png", "b.png"]), "0 <image> in its turns, but 2 images"),
    (llava(EXPECTED + "<image>"), "<image> and <img> in one conversation"),
    (llava(images=["b.png"]), "both 'image' and 'images' are given"),
    (llava(image="https://host/a.png"), "'https://host/a.png' is a URL"),
    (llava(image="HTTP://host/a.png"), "'HTTP://host/a.png' is a URL"),
    (llava(image="s3://bucket/a.png"), "is a URL"),
    (llava(image="file:///a%20b.png"), "is a URL"),
    (llava(image="data:image/png;base64," + "A" * 9999), "is a data: URL"),
    (llava(image=7), "'image' must be the path of a file or a list of them, not 7"),
    (llava(image=["a.png", ""]), "'image' must be the path"),
    (llava(image={"path": "a.png", "bytes": "AA"}), "not {'bytes': 'AA', 'path': 'a.png'}"),
    (
        message([{"type": "image_url", "image_url": {"url": "http://host/a"}}]),
        "turn 0: part 0 'http://host/a' is a URL",
    ),
    (message([part("file", {})]), "turn 0: part 0: its 'type' must be text, image, image_url, video, video_url, audio"),
    (message([{"type": ["text"]}]), "turn 0: part 0: its 'type' must be text"),
    (message(["Hi"]), "turn 0: part 0: its 'type'"),
    (message([part("text", 3)]), "turn 0: 'text' must be a str"),
    (message([URL, TEXT], images=["a.png"]), "images are given both in the turns and beside them"),
    (message([URL, part("text", "<image>")]), "2 <image> in its turns, but 1 images"),
    (message(None), "turn 0: 'content' must be a str, not NoneType"),
    (message("<video>Hi", videos=["a.mp4"]), "a video is given, but the model takes images only; remove it"),
    (llava(video="a.mp4"), "0 <video> in its turns, but 1 video is given"),
    (message("Hi <audio>", audios=["a.wav"]), "an audio is given, but the model takes images only"),
    (message("<image>", images=[{"path": "a.png", "max_pixels": 9}]), "medium 0, 'a.png': unknown max_pixels"),
    (message("a <bbox>", objects={"bbox": [[1, 2, 3, 4]], "bbox_type": "norm1"}), "lies outside its image of 1×1"),
    (message("a <bbox>", objects={"bbox": [[0.1, 0.2]], "bbox_type": "norm1"}), "a region of 1 corners cannot be"),
    (message("Hi", tools="[]"), "'tools' is given"),
    (message("Hi", conversations=[ANSWER]), "both 'conversations' and 'messages' are given"),
    (message("Hi", system="a", messages=[{"role": "system", "content": "b"}]), "'system' is given, and another"),
    (message("Hi", system=3), "'system' must be a str"),
    (message("Hi", messages=[]), "the conversation is empty"),
    (message("Hi", messages={}), "'messages' must be a list"),
    (
        message("Hi", messages=[{"role": "user", "content": "a"}, {"role": "tool", "content": "b"}]),
        "unknown role 'tool'",
    ),
    (message("Hi", messages=[{"role": "user", "content": "a", "loss": True}]), "turn 0: 'loss' is true, but only"),
    (message("Hi", messages=[{"role": "user", "content": "a", "loss": 1}]), "turn 0: 'loss' must be true or false"),
    (message("Hi", messages=[{"role": "assistant", "content": "a", "loss_scale": 0.5}]), "'loss_scale' is 0.5: only"),
    (message("Hi", messages=[{"role": "assistant", "content": "a", "tool_calls": [1]}]), "'tool_calls' is given"),
    (message("half \ud83d"), r"turn 0: half of a surrogate pair, '\ud83d'"),
    ([1], "'conversations' is missing"),
    (None, "'conversations' is missing"),
]


@pytest.mark.parametrize(("record", "reason"), REFUSED)
def test_what_cannot_be_trained_on_is_refused_by_name(texts, record, reason):
    if isinstance(record, dict):
        record = record | {"id": "k"}
    with pytest.raises(InputError) as caught:
        texts(record)
    text = str(caught.value)
    assert text.startswith("a.json: record 7") and reason in text and len(text) < 400


@pytest.mark.parametrize("identity", ["x" * 10_000, 10**5000, {"a": 1}, [[]], "\ud83d", None, True], ids=range(7))
def test_an_id_of_any_kind_names_the_record_briefly(identity):
    with pytest.raises(InputError) as caught:
        parse_record({"id": identity}, "a.json: record 0")
    assert len(str(caught.value).encode()) < 200
