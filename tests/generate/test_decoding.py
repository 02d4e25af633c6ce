"""Where answers end, and the text of tokens as they come."""

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
