"""Records to evaluate, in all their forms, and what is wrong with others."""

import unicodedata
from pathlib import Path

import pytest
from PIL import Image

from ms_impl.errors import InputError
from ms_impl.evaluate.grounding import Target
from ms_impl.evaluate.questions import parse_question
from ms_impl.qwenvl.template import QwenVLTemplate

SHIPPED = Path(__file__).parents[2] / "assets/qwenvl_tiny_easyvqa"


@pytest.fixture(scope="module")
def template():
    return QwenVLTemplate.from_pretrained(SHIPPED)


@pytest.fixture
def parse(tmp_path, template):
    """Parse a record whose images lie in a directory with ``a.png``, 400 × 200 pixels."""
    Image.new("RGB", (400, 200)).save(tmp_path / "a.png")
    placed = template.with_options(dataset_dir=str(tmp_path))

    def parse(*turns, **fields):
        roles = ("user", "assistant")
        conversations = [{"from": roles[n % 2], "value": text} for n, text in enumerate(turns)]
        return parse_question({"conversations": conversations, **fields}, 7, "x.json: record 7", placed)

    return parse


def test_the_last_assistant_turn_is_the_answer_and_the_others_are_history(parse):
    question = parse("Picture 1: <img>a.png</img>\nWhat?", "A cat.", "Its colour?", "Black.", id="k")
    assert (question.query, question.references) == ("Its colour?", ("Black.",))
    assert question.history == (("Picture 1: <img>a.png</img>\nWhat?", "A cat."),)
    assert list(question.images) == ["a.png"] and question.identity == "k" and parse("What?", "This.").identity == 7


def test_answers_of_several_people_stand_in_place_of_the_turn(parse):
    assert parse("What?", "red", answers=["blue", "green"]).references == ("blue", "green")
    assert parse("What?", answers=["blue"]).references == ("blue",)


def test_what_the_right_answer_thinks_is_not_scored(template, monkeypatch):
    monkeypatch.setattr(type(template), "think_end", "</think>")
    turns = [("user", "How many?"), ("assistant", "<think>\nOne, two.\n</think>\n\n2")]
    record = {"conversations": [{"from": role, "value": text} for role, text in turns]}
    assert parse_question(record, 0, "x", template).references == ("2",)


def test_a_box_is_in_pixels_of_the_last_image(parse):
    target = parse("<img>b.png</img><img>a.png</img>Where?", bbox=[40, -1, 200, 100.5]).target
    assert target == Target((40.0, -1.0, 200.0, 100.5), (400, 200))


def test_words_for_the_speakers_and_the_prompt_before_the_user(template):
    changed = template.with_options(user_role_name="human", assistant_role_name="gpt", user_prompt="Q: ")
    record = {"conversations": [{"from": "human", "value": "What?"}, {"from": "gpt", "value": "This."}]}
    question = parse_question(record, 0, "x", changed)
    assert (question.query, question.references) == ("Q: What?", ("This.",))


@pytest.mark.parametrize(
    ("turns", "fields", "message"),
    [
        ([], {}, "the conversation is empty"),
        (["What?"], {"answers": "red"}, "'answers' must be a list of texts"),
        (["What?", "a"], {"choices": ["a", 1]}, "'choices' must be a list of texts"),
        (["What?"], {"bbox": [0, 0, 1, 1]}, "'bbox' is given, but no image"),
        (["<img>a.png</img>"], {"bbox": [5, 0, 1, 1]}, r"'bbox' must be \[left, top, right, bottom\] in pixels, not"),
        (["<img>a.png</img>"], {"bbox": [0, 0, 0, 1]}, "'bbox' must be"),
        (["<img>a.png</img>"], {"bbox": [0, 0, float("inf"), 1]}, "'bbox' must be"),
        (["<img>a.png</img>"], {"bbox": [0, float("nan"), 1, 1]}, "'bbox' must be"),
        (["<img>a.png</img>"], {"bbox": [False, False, True, True]}, "'bbox' must be"),
        (["<img>a.png</img>"], {"bbox": [0, 0, 10**5000, 1]}, "'bbox' must be"),
        (["<img>a.png</img>"], {"bbox": [400, 0, 500, 1]}, "lies outside its image of 400×200 pixels"),
        (["<img>a.png</img>"], {"bbox": [0, -5, 5, 0]}, "lies outside its image of 400×200 pixels"),
        (["<img>no.png</img>"], {"bbox": [0, 0, 1, 1]}, "does not exist"),
    ],
)
def test_what_is_wrong_is_named_with_the_record(parse, turns, fields, message):
    with pytest.raises(InputError, match=f"x.json: record 7 .*{message}"):
        parse(*turns, id="k", **fields)


@pytest.mark.parametrize(
    ("roles", "message"),
    [
        (["user", "user"], "must alternate"),
        (["assistant", "user"], "the user must begin"),
        (["user", "bot"], "unknown role 'bot'; user_role_name and assistant_role_name are 'user' and 'assistant'"),
    ],
)
def test_roles_that_do_not_alternate_or_are_unknown(template, roles, message):
    record = {"conversations": [{"from": role, "value": "x"} for role in roles]}
    with pytest.raises(InputError, match=message):
        parse_question(record, 0, "x", template)


def test_paths_are_read_as_in_training(parse):
    """In NFC, wherever they stand in the text."""
    nfd = unicodedata.normalize("NFD", "café %20.png")
    question = parse(f"<ref><img>{nfd}</img></ref>What?", "This.")
    assert list(question.images) == [unicodedata.normalize("NFC", nfd)]


def test_a_llava_record_with_its_own_system_message(template):
    turns = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "This."}]
    record = {"image": "a.png", "system": "Be brief.", "conversations": turns}
    question = parse_question(record, 0, "x", template)
    assert question.query == "Picture 1: <img>a.png</img>\nWhat?" and question.system == "Be brief."
    assert list(question.images) == ["a.png"]
