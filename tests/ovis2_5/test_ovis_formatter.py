"""V11, V12: prompts, ids and labels as the original's formatter made them; truncation; the collator's result."""

import numpy as np
import pytest
from safetensors.numpy import load_file

from ms_impl.errors import InputError
from ms_impl.ovis2_5.formatter import Formatter, Message, cut_length, expand_visuals


@pytest.fixture(scope="module")
def formatter(ovis_tokenizer):
    return Formatter(ovis_tokenizer)


@pytest.fixture(scope="module")
def tensors(ovis_folder):
    return load_file(ovis_folder / "cases.safetensors")


def messages(case: dict) -> list[Message]:
    return [Message(turn["from"], turn["value"]) for turn in case["conversations"]]


def test_the_tokenizer_is_the_originals(formatter_cases, ovis_tokenizer):
    for text, ids in formatter_cases["tokenizer_calls"].items():
        assert ovis_tokenizer.encode(text) == ids, text
    for text, number in formatter_cases["special_ids"].items():
        assert ovis_tokenizer.encode(text) == [number]


def test_v11_training(formatter_cases, formatter):
    cases = [case for case in formatter_cases["format"] if case["generation_preface"] is None]
    assert cases
    for case in cases:
        found = formatter.conversation(messages(case))
        assert found.input_ids == case["input_ids"], case["name"]
        assert found.labels == case["labels"], case["name"]


def test_v12_prompts_with_and_without_thinking(formatter_cases, formatter):
    cases = [case for case in formatter_cases["format"] if case["generation_preface"] is not None]
    assert cases
    for case in cases:
        assert formatter.prompt(messages(case), case["generation_preface"]) == case["input_ids"], case["name"]
    for case in formatter_cases["format_query"]:
        query = [Message("human", case["query"])]
        assert formatter.prompt(query, case["generation_preface"]) == case["input_ids"], case["query"]


def test_masked_tokens_of_an_answer(formatter_cases, formatter):
    numbers = formatter_cases["gpt_token_nums"]
    assert (formatter.opening_tokens, formatter.opening_tokens_without_thinking) == (
        numbers["think"],
        numbers["no_think"],
    )


@pytest.mark.parametrize(
    ("case", "visuals"),
    [
        ("single", ("image0",)),
        ("two", ("image0", "image1")),
        ("two_adjacent", ("image1", "image0")),
        ("video", ("video",)),
    ],
)
def test_visuals_are_expanded(tensors, case, visuals):
    tokens = [int(np.prod(tensors[f"pre.{name}.grid_thw"])) // 4 for name in visuals]
    assert expand_visuals(tensors[f"{case}.raw_ids"].tolist(), tokens) == tensors[f"{case}.input_ids"][0].tolist()


def test_v17_truncation_never_cuts_a_visual(ovis_cases, tensors):
    for case in ovis_cases["truncate"]:
        ids = tensors[f"{case['case']}.input_ids"][0].tolist()
        kept = ids[: cut_length(ids, case["max_length"])]
        assert len(kept) == case["length"], case
        assert sum(token in (-302, -304) for token in kept) == case["visuals"], case


def test_an_unknown_role_is_named(formatter):
    with pytest.raises(InputError, match="unknown role 'bot'; known: system, human"):
        formatter.conversation([Message("bot", "hi")])
