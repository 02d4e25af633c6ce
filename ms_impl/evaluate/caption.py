"""Captions: CIDEr (Vedantam, Zitnick, Parikh 2015), as COCO's evaluation computes it."""

from __future__ import annotations

import re
from collections.abc import Sequence

from ms_impl.errors import InputError

# What stands alone: the endings of contractions, words with the marks inside them, other marks one by one.
_WORD = re.compile(r"n't\b|'(?:s|re|ve|ll|d|m)\b|\w+?(?=n't\b)|\w+(?:[-.,/:]\w+)*|[^\w\s]")
_LEFT_OUT = frozenset("'\"`.?!,:;-")
_BRACKETS = {"(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-"}


def words(caption: str) -> list[str]:
    """An English caption as lower-case words without punctuation; brackets count as words.

    COCO's evaluation runs Stanford's PTB tokenizer, which needs Java. This one splits as that does: ``don't`` into
    ``do n't``, ``dog's`` into ``dog 's``, while ``black-and-white``, ``4.5`` and ``10:30`` stay whole. It does not know
    abbreviations (``st.`` loses its period), nor the words that PTB cuts by a list (``cannot``, ``gonna``).
    """
    found = _WORD.findall(caption.lower())
    return [_BRACKETS.get(word, word) for word in found if word not in _LEFT_OUT]


def cider(captions: Sequence[str], references: Sequence[Sequence[str]]) -> list[float]:
    """CIDEr of each caption, 0 to 10 (papers print the mean times 100); words weigh by how rare they are in all
    references, so that it depends on the whole data set, and one record alone has 0.

    Args:
        captions: one a picture.
        references: people's captions of each picture.

    Raises:
        InputError: the package pycocoevalcap is not installed.
    """
    scorer = _scorer()
    for caption, right in zip(captions, references, strict=True):
        scorer += (" ".join(words(caption)), [" ".join(words(reference)) for reference in right])
    return scorer.compute_score()[1].tolist()


def check_installed() -> None:
    """Raise InputError unless captions can be scored."""
    _scorer()


def _scorer():
    try:
        from pycocoevalcap.cider.cider_scorer import CiderScorer
    except ImportError as error:
        raise InputError("metric cider needs the package pycocoevalcap: pip install 'vlm-mindspore[eval]'") from error
    return CiderScorer()
