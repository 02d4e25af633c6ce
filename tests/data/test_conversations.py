"""Conversations become the official fine-tuning's tokens and labels; what is wrong with one is said by name."""

from dataclasses import replace

import numpy as np
import pytest

from ms_impl.data.batch import collate
from ms_impl.data.conversations import ConversationEncoder, ConversationFormat
from ms_impl.data.records import parse_record
from ms_impl.errors import InputError

ANSWERED = [{"from": "user", "value": "Hi"}, {"from": "assistant", "value": "Hello!"}]
PICTURE = [{"from": "user", "value": "<img>a/é.png</img>\nWhat?"}, {"from": "assistant", "value": "A dog."}]


def conversation(turns, source="a.json: record 0"):
    return parse_record({"conversations": turns}, source)


@pytest.fixture
def encoder(tokenizer):
    return ConversationEncoder(tokenizer, max_length=512)


def test_equals_the_official_preprocessing(tokenizer, tokenizer_cases):
    for case in tokenizer_cases["preprocess"]:
        encoder = ConversationEncoder(tokenizer, case["max_len"])
        sample = encoder.encode(conversation(case["conversations"]))
        batch = collate(
            [sample | {"image_paths": [], "image_columns": []}],
            pad_id=tokenizer.pad_id,
            num_queries=tokenizer.num_queries,
            image_size=2,
            load_pixels=lambda path, out: None,
            length=case["max_len"],
        )
        assert batch["input_ids"][0].tolist() == case["input_ids"]
        assert batch["labels"][0].tolist() == case["labels"]
        assert batch["segment_ids"][0].tolist() == case["attention_mask"]
        assert not encoder.counts


def test_sample(encoder, tokenizer):
    sample = encoder.encode(conversation(PICTURE))
    assert sample["record"] == "a.json: record 0"
    assert sample["image_paths"] == ["a/é.png"]
    assert sample["input_ids"][sample["image_columns"][0] - 1] == tokenizer.image_start_id
    assert sample["input_ids"].dtype == sample["labels"].dtype == np.int32
    trained = sample["labels"] != -100
    assert (sample["labels"][trained] == sample["input_ids"][trained]).all()


def test_role_names_are_the_files_words_only(tokenizer, encoder):
    style = ConversationFormat(user_role_name="human", assistant_role_name="gpt")
    names = {"user": "human", "assistant": "gpt"}
    renamed = [turn | {"from": names[turn["from"]]} for turn in PICTURE]
    ours = ConversationEncoder(tokenizer, 512, style).encode(conversation(renamed))
    theirs = encoder.encode(conversation(PICTURE))
    assert ours["input_ids"].tolist() == theirs["input_ids"].tolist()
    assert ours["labels"].tolist() == theirs["labels"].tolist()


def test_roles_may_exchange_their_names(tokenizer, encoder):
    """Neither name has precedence over the other."""
    style = ConversationFormat(user_role_name="assistant", assistant_role_name="user")
    exchanged = [{"from": "assistant", "value": "Hi"}, {"from": "user", "value": "Hello!"}]
    ours = ConversationEncoder(tokenizer, 512, style).encode(conversation(exchanged))
    assert ours["labels"].tolist() == encoder.encode(conversation(ANSWERED))["labels"].tolist()


def test_equal_role_names_are_refused(tokenizer):
    with pytest.raises(InputError, match="both 'user'"):
        ConversationEncoder(tokenizer, 512, ConversationFormat(assistant_role_name="user"))


def test_system_message_and_prompts(tokenizer):
    style = ConversationFormat(system_message="Be brief.", user_prompt="Q: ", assistant_prompt="A: ")
    ids = ConversationEncoder(tokenizer, 512, style).encode(conversation(ANSWERED))["input_ids"]
    assert tokenizer.decode(ids) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nQ: Hi<|im_end|>\n"
        "<|im_start|>assistant\nA: Hello!<|im_end|>\n"
    )


def test_text_cannot_end_its_message(encoder, tokenizer):
    turns = [{"from": "user", "value": "<|im_end|>"}, {"from": "assistant", "value": "<|im_start|><|endoftext|>"}]
    ids = encoder.encode(conversation(turns))["input_ids"].tolist()
    assert (ids.count(tokenizer.im_start_id), ids.count(tokenizer.im_end_id), ids.count(tokenizer.eod_id)) == (3, 3, 0)


def test_leading_assistant_turn_is_left_out_and_counted(encoder):
    led = [{"from": "assistant", "value": "Welcome."}, *ANSWERED]
    sample = encoder.encode(conversation(led))
    assert sample["input_ids"].tolist() == encoder.encode(conversation(ANSWERED))["input_ids"].tolist()
    assert list(encoder.counts.values()) == [1]
    assert list(encoder.examples.values()) == ["a.json: record 0"]


def test_cutting_off_is_counted(tokenizer):
    encoder = ConversationEncoder(tokenizer, max_length=20)
    whole = ConversationEncoder(tokenizer, max_length=24).encode(conversation(ANSWERED))
    sample = encoder.encode(conversation(ANSWERED))
    assert len(whole["input_ids"]) == 24
    assert sample["input_ids"].tolist() == whole["input_ids"][:20].tolist()
    assert sample["labels"].tolist() == whole["labels"][:20].tolist()
    assert encoder.counts == {"cut off at 20 tokens": 1}
    encoder.encode(replace(conversation(ANSWERED), record="another"))
    assert encoder.counts == {"cut off at 20 tokens": 2}
    assert encoder.examples == {"cut off at 20 tokens": "a.json: record 0"}


@pytest.mark.parametrize("beyond", range(-2, 3))
def test_an_image_is_never_cut(tokenizer, encoder, beyond):
    (column,) = encoder.encode(conversation(PICTURE))["image_columns"]
    start, end = column - 1, column + tokenizer.num_queries + 1
    for limit, whole in ((start + beyond, beyond <= 0), (end + beyond, beyond >= 0)):
        short = ConversationEncoder(tokenizer, limit)
        if whole:
            assert len(short.encode(conversation(PICTURE))["image_paths"]) == (limit >= end)
        else:
            with pytest.raises(InputError, match="^a.json: record 0: max_length .* cuts image 'a/é.png'"):
                short.encode(conversation(PICTURE))


USER, ASSISTANT = ANSWERED


@pytest.mark.parametrize(
    "turns, message",
    [
        ([USER, {"from": "bot", "value": "Hi"}], "unknown role 'bot'.*'user' and 'assistant'"),
        ([USER, USER], "no answer"),
        ([USER, {"from": "assistant", "value": " "}], "an answer is empty"),
        ([ASSISTANT], "the conversation is empty"),
        ([USER, {"from": "system", "value": "Be brief."}, ASSISTANT], "system message stands between"),
        ([{"from": "user", "value": "<img>a.png"}], "Unclosed image token"),
        ([{"from": "user", "value": "<img>a<img>b</img>"}], "nested image token"),
        ([{"from": "user", "value": "<img>" + "p" * 257 + "</img>"}], "too long.*257 bytes"),
    ],
)
def test_bad_turns_name_the_record(encoder, turns, message):
    with pytest.raises(InputError, match=f"a.json: record 3 .*{message}"):
        encoder.encode(parse_record({"id": "identity_3", "conversations": turns}, "a.json: record 3"))
