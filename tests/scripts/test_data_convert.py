"""LLaVA-Instruct's records become conversations that the training reads; what is wrong with one is said by name."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import easy_vqa
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))

import data_convert
from released_template import released_template

from ms_impl.data.files import ConversationFile
from ms_impl.data.images import load_pixels, resolve_path

PATH = "train2014/COCO_train2014_000000442786.jpg"
SHOWN = f"Picture 1: <img>{PATH}</img>\n"


def record(question="<image>\nWhat?", image="000000442786.jpg", **changes):
    turns = [{"from": "human", "value": question}, {"from": "gpt", "value": "A dog."}]
    return {"id": "000000442786", "image": image, "conversations": turns} | changes


@pytest.fixture
def coco(tmp_path) -> Path:
    """A folder that holds train2014 with one picture."""
    (tmp_path / "coco" / "train2014").mkdir(parents=True)
    shutil.copy(next(iter(easy_vqa.get_test_image_paths().values())), tmp_path / "coco" / PATH)
    return tmp_path / "coco"


@pytest.fixture
def convert(tmp_path, coco, capsys):
    """Run the command on records; returns its exit status, the output as parsed lines or list, and what it printed."""

    def run(records, *arguments, output="ours.json"):
        source, target = tmp_path / "llava.json", tmp_path / output
        source.write_text(json.dumps(records))
        given = ["--data_path", source, "--image_location", coco, "--output_path", target, *arguments]
        status = data_convert.main([str(argument) for argument in given])
        return status, list(ConversationFile(target)) if target.exists() else None, capsys.readouterr()

    return run


@pytest.mark.parametrize(
    ("question", "converted"),
    [
        ("<image>\nWhat?", "What?"),
        ("What?\n<image>", "What?"),
        ("<image>What?", "What?"),
        ("Of this: <image> what?", "Of this: what?"),
        ("  What?\nAnd why?\n<image>\n", "What?\nAnd why?"),
        ("<image>", ""),
    ],
)
def test_the_picture_stands_before_the_question(convert, question, converted):
    status, (conversation,), _ = convert([record(question)])
    assert status == 0
    assert [(turn.role, turn.text) for turn in conversation.turns] == [
        ("user", SHOWN + converted), ("assistant", "A dog."),
    ]  # fmt: skip


def test_the_layout_that_users_know(tmp_path, convert):
    turns = [{"from": ("human", "gpt")[number % 2], "value": f"turn {number} é🐶"} for number in range(4)]
    turns[0]["value"] += "\n<image>"
    assert convert([record(conversations=turns), record()])[0] == 0
    assert json.loads((tmp_path / "ours.json").read_text())[0] == {
        "id": "000000442786",
        "conversations": [
            {"from": "user", "value": SHOWN + "turn 0 é🐶"},
            {"from": "assistant", "value": "turn 1 é🐶"},
            {"from": "user", "value": "turn 2 é🐶"},
            {"from": "assistant", "value": "turn 3 é🐶"},
        ],
    }


def test_a_system_message_and_untrained_turns_are_kept(tmp_path, convert):
    turns = [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "a", "loss": False}]
    turns += [{"from": "human", "value": "And?"}, {"from": "gpt", "value": "b"}]
    assert convert([record(image=None, system="Be brief.", conversations=turns)])[0] == 0
    (converted,) = json.loads((tmp_path / "ours.json").read_text())
    assert converted["system"] == "Be brief."
    assert [turn.get("loss") for turn in converted["conversations"]] == [None, False, None, None]


def test_roles_lines_and_text_only_records(tmp_path, convert):
    text_only = record("Hi", image=None)
    del text_only["image"]
    names = ("--user_role_name", "human", "--assistant_role_name", "bot")
    status, conversations, printed = convert([record(), text_only], *names, output="ours.jsonl")
    assert status == 0 and "2 conversations; train with dataset_dir: " in printed.out
    assert len((tmp_path / "ours.jsonl").read_text().splitlines()) == 2
    assert [turn.role for turn in conversations[1].turns] == ["human", "bot"]
    assert conversations[1].turns[0].text == "Hi"


def test_the_training_reads_what_is_written(convert, coco, tokenizer):
    _, (conversation,), _ = convert([record()])
    (image,) = released_template(tokenizer).sample(conversation).media
    assert load_pixels(resolve_path(image.source, coco), 14).shape == (3, 14, 14)


def test_the_training_reads_what_the_old_port_wrote(tmp_path, tokenizer):
    """It left the picture where the placeholder was, and kept every other key."""
    value = f"What?Picture 1: <img>{PATH}</img>\n"
    turns = [{"from": "user", "value": value}, {"from": "assistant", "value": "A dog."}]
    (tmp_path / "old.json").write_text(json.dumps([{"id": "000000442786", "conversations": turns}]))
    (conversation,) = ConversationFile(tmp_path / "old.json")
    assert [image.source for image in released_template(tokenizer).sample(conversation).media] == [PATH]


FAULTY = [
    (record(image="1.jpg"), "image file 'train2014/COCO_train2014_1.jpg' not found in "),
    (record(image="../a.jpg"), "image file 'train2014/COCO_train2014_../a.jpg' not found"),
    (record(image=7), "'image' must be the path of a file or a list of them, not 7"),
    (record("What?"), "0 <image> in its turns, but 1 images are given"),
    (record("<image>\n<image>"), "2 <image> in its turns, but 1 images are given"),
    (record("<image>\nHow does <img> work?"), "<image> and <img> in one conversation"),
    (record("<image>\n</box>"), "turn 0: '</box>' in its text would be read as a tag"),
    (
        record(conversations=[{"from": "gpt", "value": "<image>Hi"}]),
        "turn 0 is the assistant's: user and assistant must alternate",
    ),
    (record(conversations=[]), "the conversation is empty"),
    (record(conversations=[{"from": "human"}]), "turn 0: 'value' is missing"),
]


@pytest.mark.parametrize("faulty, message", FAULTY)
def test_a_faulty_record_is_named_and_nothing_written(tmp_path, convert, faulty, message):
    status, conversations, printed = convert([record(), faulty])
    assert (status, conversations) == (2, None)
    assert f"llava.json: record 1 (id '000000442786'): {message}" in printed.err
    assert "error: 1 of 2 records are faulty" in printed.err
    assert {path.name for path in tmp_path.iterdir()} == {"coco", "llava.json"}


def test_faulty_records_may_be_left_out(convert):
    faulty = [each for each, _ in FAULTY]
    status, conversations, printed = convert([record(), *faulty, record()], "--skip_faulty")
    assert status == 0 and len(conversations) == 2
    assert "left out: 10 of 12 records are faulty" in printed.err
    assert "record 5 (id" in printed.err and "record 6 (id" not in printed.err and "… and 5 more" in printed.err
    assert convert(faulty, "--skip_faulty", output="none.json")[:2] == (2, None)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--image_location", "{coco}/train2014"), "holds no directory train2014; give its parent, {coco}"),
        (("--image_location", "{coco}/none"), "none holds no directory train2014"),
        (("--user_role_name", "assistant"), "are both 'assistant'"),
        (("--output_path", "{coco}"), "cannot be a file"),
        (("--output_path", "{coco}/../none/a.json"), "cannot be a file"),
        (("--output_path", "{coco}/../llava.json"), "is --data_path itself"),
        (("--data_path", "{coco}/none.json"), "none.json: cannot be read"),
    ],
)
def test_arguments_that_cannot_work(convert, coco, arguments, message):
    status, _, printed = convert([record()], *(argument.format(coco=coco) for argument in arguments))
    assert status == 2 and printed.err.startswith("error: ") and message.format(coco=coco) in printed.err
