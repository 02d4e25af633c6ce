"""Where answers end, and the text of tokens as they come."""

import sys

import numpy as np
import pytest

from ms_impl.generate.config import GenerationConfig
from ms_impl.generate.decoding import Answer, without_stop
from ms_impl.generate.sampling import Sampler
from ms_impl.generate.text import TextStreamer

UNKNOWN = "\N{REPLACEMENT CHARACTER}"


def answer_to(prompt: list[int], wanted: list[int], stops: list[list[int]], limit: int = 100) -> Answer:
    """An answer whose logits ask for the ``wanted`` tokens one after another."""
    answer = Answer(prompt, Sampler(GenerationConfig(do_sample=False)), stops, limit)
    for token in wanted:
        if answer.finished:
            break
        assert answer.extend(np.eye(100)[token]) == token
    return answer


def test_it_ends_with_a_stop_word():
    answer = answer_to([1, 2], [5, 6, 7, 8], [[9], [6, 7]])
    assert answer.tokens == [5, 6, 7]
    assert answer.finished


def test_a_stop_word_that_began_in_the_prompt_is_none():
    assert answer_to([1, 6], [7, 5], [[6, 7]]).tokens == [7, 5]


class Countdown:
    """Forces 7, 8 after two tokens; penalises what was generated after them, else what came before."""

    overrun = 0

    def forced(self, generated):
        return {2: 7, 3: 8}.get(len(generated))

    def penalised(self, prompt, generated):
        assert prompt == [1, 2]
        return generated[4:] if len(generated) >= 4 else generated


def test_forced_tokens_are_not_sampled_and_the_policy_says_what_is_penalised():
    def answer(policy, wanted: int, penalty: float, seed: int) -> Answer:
        config = GenerationConfig(do_sample=True, temperature=5.0, repetition_penalty=penalty)
        answer = Answer([1, 2], Sampler(config, seed), [], 8, policy)
        while not answer.finished:
            answer.extend(np.eye(100)[wanted] * 9)
        return answer

    free, forced = answer(None, 5, 1.0, 0), answer(Countdown(), 5, 1.0, 0)
    assert forced.tokens[2:4] == [7, 8]
    assert forced.tokens[:2] + forced.tokens[4:] == free.tokens[:6]  # no draw was spent on them
    greedy = GenerationConfig(do_sample=False, repetition_penalty=1e6)
    for policy, expected in (
        (None, [5, 0, 3, 4, 6]),  # neither again, nor 1 and 2 of the prompt
        (Countdown(), [5, 0, 7, 8, 5, 0, 1, 2]),  # a phase of its own after 7, 8: 5 again, and 1 and 2 of the prompt
    ):
        answer = Answer([1, 2], Sampler(greedy), [], len(expected), policy)
        while not answer.finished:
            answer.extend(np.eye(100)[5] + 1e-3 * (100 - np.arange(100)))
        assert answer.tokens == expected


def test_a_forced_stop_word_ends_the_answer():
    answer = Answer([1, 2], Sampler(GenerationConfig()), [[7, 8]], 100, Countdown())
    while not answer.finished:
        answer.extend(np.eye(100)[5])
    assert answer.tokens == [5, 5, 7, 8]


def test_it_ends_at_the_limit():
    answer = answer_to([1], [5, 6, 7], [[9]], limit=2)
    assert (answer.tokens, answer.finished) == ([5, 6], True)


@pytest.mark.parametrize("tokens, expected", [([1, 9], [1]), ([6, 7], []), ([6], [6]), ([9, 1], [9, 1]), ([], [])])
def test_without_stop(tokens, expected):
    assert without_stop(tokens, [[9], [6, 7]]) == expected


def pieces(tokenizer, tokens, stops) -> tuple[list[str], str]:
    """What each token adds, and what the end adds."""
    stream = TextStreamer(stops, tokenizer.detokenizer())
    return [stream.add(token) for token in tokens], stream.finish()


@pytest.mark.parametrize(
    "text", ["plain text.", "图中是一只拉布拉多犬。", "🐕 und 🐩, naïve — 狗𠀀!", "<ref>狗</ref><box>(1,2),(3,4)</box>"]
)
def test_pieces_are_whole_characters_and_make_up_the_text(tokenizer, text):
    tokens = tokenizer.encode_message(text)
    shown, rest = pieces(tokenizer, [*tokens, tokenizer.im_end_id], [[tokenizer.im_end_id]])
    assert "".join(shown) == text and rest == ""
    assert UNKNOWN not in "".join(shown)


def test_an_emoji_in_several_tokens_comes_at_once(tokenizer):
    tokens = tokenizer.encode("𠀀")
    assert len(tokens) > 1
    assert pieces(tokenizer, tokens, [])[0] == [""] * (len(tokens) - 1) + ["𠀀"]


def test_bytes_that_never_become_a_character_are_shown_in_the_end(tokenizer):
    tokens = tokenizer.encode("ok 𠀀")[:-1]
    shown, rest = pieces(tokenizer, tokens, [])
    assert ("".join(shown), rest) == ("ok", f" {UNKNOWN}")


def test_a_stop_word_is_not_shown_not_even_in_part(tokenizer):
    stop = tokenizer.encode("Human:")
    assert len(stop) == 2
    shown, rest = pieces(tokenizer, tokenizer.encode("Yes.") + stop, [stop])
    assert "".join(shown) == "Yes." and rest == ""


def test_the_beginning_of_a_stop_word_that_does_not_come_is_text(tokenizer):
    stop = tokenizer.encode("Human:")
    shown, rest = pieces(tokenizer, [*stop[:1], *tokenizer.encode(" rights")], [stop])
    assert shown == ["", "Human rights"]
    assert pieces(tokenizer, stop[:1], [stop]) == ([""], "Human")


def test_space_around_the_answer_is_left_out(tokenizer):
    shown, rest = pieces(tokenizer, tokenizer.encode("\n a  b \n"), [])
    assert "".join(shown) + rest == "a  b"


class Counting:
    """A detokenizer that counts the tokens it is given, and how much it keeps."""

    def __init__(self, inner):
        self.inner, self.taken = inner, 0

    def add(self, token: int) -> str:
        self.taken += 1
        return self.inner.add(token)

    def finish(self) -> str:
        return self.inner.finish()


def test_a_long_answer_costs_the_same_for_each_token(tokenizer):
    """3,000 tokens: each is decoded once, and the Python calls a token do not grow with what came before."""
    words = tokenizer.encode_message("the 图 of 🐕 a\n\n ") * 600
    tokens = words[:3000]
    detokenizer = Counting(tokenizer.detokenizer())
    stream = TextStreamer([[tokenizer.im_end_id], tokenizer.encode("Human:")], detokenizer)

    def calls(part: list[int]) -> int:
        counted = 0

        def count(frame, event, argument):
            nonlocal counted
            counted += event in ("call", "c_call")

        sys.setprofile(count)
        try:
            for token in part:
                stream.add(token)
        finally:
            sys.setprofile(None)
        return counted

    period = len(tokenizer.encode_message("the 图 of 🐕 a\n\n "))
    parts = [tokens[start : start + 50 * period] for start in range(0, 3000 - 50 * period, 50 * period)]
    counts = [calls(part) for part in parts]
    assert len(parts) >= 4 and max(counts[1:]) <= 1.01 * min(counts[1:])
    assert detokenizer.taken == sum(map(len, parts))
