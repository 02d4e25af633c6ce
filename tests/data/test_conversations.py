"""Conversations become the official fine-tuning's tokens and labels; what is wrong with one is said by name."""

from dataclasses import replace

import numpy as np
import pytest
from released_template import released_template

from ms_impl.data.batch import collate
from ms_impl.data.records import parse_record
from ms_impl.errors import InputError

ANSWERED = [{"from": "user", "value": "Hi"}, {"from": "assistant", "value": "Hello!"}]
PICTURE = [{"from": "user", "value": "<img>a/é.png</img>\nWhat?"}, {"from": "assistant", "value": "A dog."}]


def conversation(turns, source="a.json: record 0"):
    return parse_record({"conversations": turns}, source)


@pytest.fixture
def encoder(tokenizer):
    return released_template(tokenizer)


def encode(template, conversation):
    return template.cut(template.sample(conversation), template.max_length)


def test_equals_the_official_preprocessing(tokenizer, tokenizer_cases):
    for case in tokenizer_cases["preprocess"]:
        encoder = released_template(tokenizer, case["max_len"])
        sample = encode(encoder, conversation(case["conversations"]))
        batch = collate([replace(sample, media=())], encoder, {"tokens": case["max_len"]})
        assert batch["input_ids"][0].tolist() == case["input_ids"]
        assert batch["labels"][0].tolist() == case["labels"]
        assert batch["segment_ids"][0].tolist() == case["attention_mask"]
        assert not encoder.counts


def test_sample(encoder, tokenizer):
    sample = encode(encoder, conversation(PICTURE))
    assert sample.record == "a.json: record 0"
    (image,) = sample.media
    assert image.source == "a/é.png"
    assert sample.input_ids[image.columns[0] - 1] == tokenizer.image_start_id
    assert sample.input_ids.dtype == sample.labels.dtype == np.int32
    trained = sample.labels != -100
    assert (sample.labels[trained] == sample.input_ids[trained]).all()


def test_role_names_are_the_files_words_only(tokenizer, encoder):
    style = {"user_role_name": "human", "assistant_role_name": "gpt"}
    names = {"user": "human", "assistant": "gpt"}
    renamed = [turn | {"from": names[turn["from"]]} for turn in PICTURE]
    ours = encode(released_template(tokenizer, **style), conversation(renamed))
    theirs = encode(encoder, conversation(PICTURE))
    assert ours.input_ids.tolist() == theirs.input_ids.tolist()
    assert ours.labels.tolist() == theirs.labels.tolist()


def test_roles_may_exchange_their_names(tokenizer, encoder):
    """Neither name has precedence over the other."""
    style = {"user_role_name": "assistant", "assistant_role_name": "user"}
    exchanged = [{"from": "assistant", "value": "Hi"}, {"from": "user", "value": "Hello!"}]
    ours = encode(released_template(tokenizer, **style), conversation(exchanged))
    assert ours.labels.tolist() == encode(encoder, conversation(ANSWERED)).labels.tolist()


def test_equal_role_names_are_refused(tokenizer):
    with pytest.raises(InputError, match="both 'user'"):
        released_template(tokenizer, assistant_role_name="user")


def test_system_message_and_prompts(tokenizer):
    style = {"system_message": "Be brief.", "user_prompt": "Q: ", "assistant_prompt": "A: "}
    ids = encode(released_template(tokenizer, **style), conversation(ANSWERED)).input_ids
    assert tokenizer.decode(ids) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nQ: Hi<|im_end|>\n"
        "<|im_start|>assistant\nA: Hello!<|im_end|>\n"
    )


def test_text_cannot_end_its_message(encoder, tokenizer):
    turns = [{"from": "user", "value": "<|im_end|>"}, {"from": "assistant", "value": "<|im_start|><|endoftext|>"}]
    ids = encode(encoder, conversation(turns)).input_ids.tolist()
    assert (ids.count(tokenizer.im_start_id), ids.count(tokenizer.im_end_id), ids.count(tokenizer.eod_id)) == (3, 3, 0)


def test_leading_assistant_turn_is_left_out_and_counted(encoder):
    led = [{"from": "assistant", "value": "Welcome."}, *ANSWERED]
    sample = encode(encoder, conversation(led))
    assert sample.input_ids.tolist() == encode(encoder, conversation(ANSWERED)).input_ids.tolist()
    assert list(encoder.counts.values()) == [1]
    assert list(encoder.examples.values()) == ["a.json: record 0"]


def test_cutting_off_is_counted(tokenizer):
    encoder = released_template(tokenizer, max_length=20)
    whole = encode(released_template(tokenizer, max_length=24), conversation(ANSWERED))
    sample = encode(encoder, conversation(ANSWERED))
    assert len(whole.input_ids) == 24
    assert sample.input_ids.tolist() == whole.input_ids[:20].tolist()
    assert sample.labels.tolist() == whole.labels[:20].tolist()
    assert encoder.counts == {"cut off at 20 tokens": 1}
    encode(encoder, replace(conversation(ANSWERED), record="another"))
    assert encoder.counts == {"cut off at 20 tokens": 2}
    assert encoder.examples == {"cut off at 20 tokens": "a.json: record 0"}


@pytest.mark.parametrize("beyond", range(-2, 3))
def test_an_image_is_never_cut(tokenizer, encoder, beyond):
    (image,) = encode(encoder, conversation(PICTURE)).media
    column = int(image.columns[0])
    start, end = column - 1, column + tokenizer.num_queries + 1
    for limit, whole in ((start + beyond, beyond <= 0), (end + beyond, beyond >= 0)):
        short = released_template(tokenizer, limit)
        if whole:
            assert len(encode(short, conversation(PICTURE)).media) == (limit >= end)
        else:
            with pytest.raises(InputError, match="^a.json: record 0: max_length .* cuts image 'a/é.png'"):
                encode(short, conversation(PICTURE))


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
        encode(encoder, parse_record({"id": "identity_3", "conversations": turns}, "a.json: record 3"))
