"""The thinking of an answer, apart from the answer: whole, and in pieces that cut it anywhere."""

import random

import pytest

from ms_impl.data.thinking import ThinkingStream, split_thinking

END = "</think>"


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("<think>\nhm\n</think>\n\nTwo.", ("<think>\nhm\n</think>", "Two.")),
        ("Two.", ("", "Two.")),
        ("a</think>b</think>c", ("a</think>", "b</think>c")),
        ("</think>", ("</think>", "")),
    ],
)
def test_apart(text, wanted):
    assert split_thinking(text, END) == wanted
    assert split_thinking(text, None) == ("", text)


@pytest.mark.parametrize("text", ["<think>\nhm</thin\n</think>\n\nTwo </think>.", "<think> never ends </thi", "", END])
def test_a_stream_is_cut_where_the_whole_is(text):
    generator = random.Random(0)
    for _ in range(50):
        stream, thinking, answer, start = ThinkingStream(END), "", "", 0
        while start < len(text):
            length = generator.randint(1, 9)
            more = stream.add(text[start : start + length])
            thinking, answer, start = thinking + more[0], answer + more[1], start + length
        thinking += stream.finish()
        assert thinking + answer == text and stream.ended == (END in text)
        if END in text:
            assert (thinking.strip(), answer.strip()) == split_thinking(text, END)


def test_without_an_end_all_is_answer():
    assert ThinkingStream(None).add("hm") == ("", "hm")
