"""V13, V14: the budget as a policy of tokens, replayed on the original's generations; thinking apart from the answer."""

import numpy as np
import pytest

from ms_impl.data.thinking import split_thinking
from ms_impl.errors import InputError
from ms_impl.generate.config import GenerationConfig
from ms_impl.generate.decoding import Answer
from ms_impl.generate.sampling import Sampler
from ms_impl.generate.text import TextStreamer
from ms_impl.ovis2_5.thinking import (
    EARLY_STOP,
    THINK_END,
    NewTokens,
    ThinkingBudget,
    check_budget,
    split_ids,
    without_thinking,
)


def test_the_early_stop_is_the_originals(formatter_cases, ovis_tokenizer):
    assert formatter_cases["early_stop_text"] == EARLY_STOP
    assert ovis_tokenizer.encode(EARLY_STOP) == formatter_cases["early_stop_ids"]


def test_v13_what_is_forced_where(ovis_cases):
    """The sampled tokens are the original's; the policy must put the forced ones between them, and stop where it did."""
    for case in ovis_cases["budget"]:
        policy = NewTokens()
        if case["enable_thinking"] and case["thinking_budget"]:
            policy = ThinkingBudget(case["thinking_budget"], case["think_end_id"], case["early_stop_ids"])
        sampled = iter([token for call in case["calls"] for token in call["output"]])
        tokens = []
        while len(tokens) < case["max_new_tokens"] and tokens[-1:] != [case["im_end_id"]]:
            forced = policy.forced(tokens)
            tokens.append(next(sampled) if forced is None else forced)
        assert tokens == case["thinking_ids"] + case["response_ids"], case["name"]
        assert next(sampled, None) is None, case["name"]
        assert split_ids(tokens, case["think_end_id"]) == (case["thinking_ids"], case["response_ids"])


@pytest.mark.parametrize(("length", "tokens"), [(4, 8), (8, 8), (9, 9)])
def test_what_is_forced_is_whole(length, tokens):
    """Where the answer's length leaves no room for it, as in the original; then nothing more is sampled."""
    policy = ThinkingBudget(3, 9, [5, 6, 7, 9, 8])
    answer = Answer([], Sampler(GenerationConfig()), [], length, policy)
    while not answer.finished:
        answer.extend(np.eye(10, dtype=np.float32)[1])
    assert answer.tokens == ([1] * 3 + [5, 6, 7, 9, 8] + [1] * 5)[:tokens]


def test_the_penalty_begins_anew_with_the_second_phase():
    policy = ThinkingBudget(3, 9, [7, 9])
    assert policy.penalised([5], [1, 2]) == [1, 2]
    assert policy.penalised([5], [1, 2, 3]) == []
    assert policy.penalised([5], [1, 2, 3, 7, 9, 4]) == [4]
    assert policy.penalised([5], [1, 9, 3, 4]) == [4]
    assert NewTokens().penalised([5], [1, 2]) == [1, 2]


def test_a_budget_must_leave_an_answer():
    check_budget(10, 11)
    with pytest.raises(InputError, match="thinking_budget 11 leaves nothing of max_new_tokens 11"):
        check_budget(11, 11)


def test_earlier_answers_are_cut_as_by_the_chat_template():
    assert without_thinking("<think>\nhm\n</think>\n\nTwo.\n") == "Two.\n"
    assert without_thinking("\nTwo") == "\nTwo"
    assert without_thinking("a</think>b</think>c") == "c"


def test_v14_a_stream_crosses_both_phases(ovis_tokenizer):
    """Joined, the pieces are the whole text, the forced part included, and each token is given once."""
    thought, answer = "<think>\nThe box 图 is", "It is red 🙂.<|im_end|>"
    policy = ThinkingBudget(
        len(ovis_tokenizer.encode(thought)), ovis_tokenizer.think_end_id, ovis_tokenizer.encode(EARLY_STOP)
    )
    sampled = iter(ovis_tokenizer.encode(thought) + ovis_tokenizer.encode(answer))
    streamer = TextStreamer([[ovis_tokenizer.im_end_id]], ovis_tokenizer.detokenizer())
    tokens, pieces = [], []
    while tokens[-1:] != [ovis_tokenizer.im_end_id]:
        forced = policy.forced(tokens)
        tokens.append(next(sampled) if forced is None else forced)
        pieces.append(streamer.add(tokens[-1]))
    pieces.append(streamer.finish())
    assert "".join(filter(None, pieces)) == thought + EARLY_STOP + answer.removesuffix("<|im_end|>")
    assert split_thinking("".join(filter(None, pieces)), THINK_END) == ((thought + EARLY_STOP).strip(), "It is red 🙂.")
