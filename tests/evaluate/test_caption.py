"""CIDEr against values worked out by hand, and the words of captions as Stanford's tokenizer gives them."""

import math
import sys

import pytest

from ms_impl.errors import InputError
from ms_impl.evaluate.caption import cider, words


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("A man's dog doesn't bark.", "a man 's dog does n't bark"),
        ("The black-and-white cat, at 10:30 - 4.5 lbs!", "the black-and-white cat at 10:30 4.5 lbs"),
        ('Two (2) say "hello"; they\'ll go...', "two -lrb- 2 -rrb- say hello they 'll go"),
        ("$1,000 for a café & more", "$ 1,000 for a café & more"),
        ("the dogs' bowls", "the dogs bowls"),
    ],
)
def test_words_are_those_of_the_ptb_tokenizer(caption, expected):
    """``expected`` was printed by pycocoevalcap's PTBTokenizer (Java)."""
    assert words(caption) == expected.split()


def test_one_word_captions():
    """Of the four n-gram lengths only one has anything in common: 10 · 1/4."""
    assert cider(["Red.", "red"], [["red"], ["blue"]]) == pytest.approx([2.5, 0.0])


def test_a_caption_that_is_too_short():
    """Unigrams: 2 / (√2 · √4); bigrams: 1 / √3; two bigrams fewer: e^(−2² / (2 · 6²))."""
    expected = 10 / 4 * (2 / math.sqrt(8) + 1 / math.sqrt(3)) * math.exp(-4 / 72)
    assert cider(["one two", "x"], [["one two three four"], ["x"]])[0] == pytest.approx(expected)


def test_several_references_are_averaged():
    one, both = (cider(["red", "x"], [references, ["x"]])[0] for references in (["red"], ["red", "blue"]))
    assert both == pytest.approx(one / 2)


def test_a_package_that_is_missing_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "pycocoevalcap.cider.cider_scorer", None)
    with pytest.raises(InputError, match="needs the package pycocoevalcap"):
        cider(["a"], [["a"]])
