"""Short answers to questions: the soft accuracy of VQA, and exact match.

Source of the rules: ``PythonEvaluationTools/vqaEvaluation/vqaEval.py`` of github.com/GT-Vision-Lab/VQA, in the form of
``eval_mm/vqa_eval.py``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

FULL_MARKS = 3  # so many people who agree with an answer make it wholly right

_ARTICLES = frozenset({"a", "an", "the"})
_NUMBERS = {"none": "0", "zero": "0", "one": "1", "two": "2", "three": "3", "four": "4", "five": "5", "six": "6",
            "seven": "7", "eight": "8", "nine": "9", "ten": "10"}  # fmt: skip
_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
_DIGIT_COMMA = re.compile(r"\d,\d")
_PERIOD = re.compile(r"\.(?!\d)")
_PERIODS_AT_MOST = 32  # the original passes a flag of that value where ``re.sub`` takes a count

# Contractions whose apostrophe people forget, by ending; not among them where a word of its own remains (we'd, she'll).
_ENDINGS = {
    "n't": "ai are ca could did does do had has have is might must need ought sha should was were wo would",
    "'ve": "could might must not should they we what where who would you",
    "'d": "he how it someone something there they where who you",
    "'ll": "how it somebody someone something they what who why you",
    "'s": "he how somebody someone that there what when where who why",
    "'re": "there they what why you",
    "n't've": "could had might should would",
    "'d've": "he it she somebody someone something there they we who you",
}
_TURNED_ROUND = {"somebody'd": "somebodyd"}  # in the original's table, too
_OTHERS = "ma'am o'clock 'twas y'all y'all'll y'all'd've 'ow's'at"


def soft_accuracy(answer: str, people: Sequence[str]) -> float:
    """Agreement of an answer with several people's: the mean, over all ways of leaving one of them out, of
    min(how many of the others say the same / 3, 1).

    People's answers lose their punctuation where they are not unanimous, the model's is normalised in full; the
    original takes for granted that people's are normal otherwise. To agree with four is enough for 1.
    """
    answer = normalise(answer)
    if len(set(people)) > 1:
        people = [strip_punctuation(given) for given in people]
    matches = [given == answer for given in people]
    return sum(min((sum(matches) - own) / FULL_MARKS, 1.0) for own in matches) / len(people)


def exact_match(answer: str, references: Sequence[str]) -> float:
    """1 if an answer is one of the references, but for case and the space around it; else 0."""
    return float(answer.strip().lower() in {reference.strip().lower() for reference in references})


def normalise(answer: str) -> str:
    """Lower case without articles and punctuation, number words as digits, forgotten apostrophes put back."""
    words = strip_punctuation(answer.replace("\n", " ").replace("\t", " ").strip()).lower().split()
    words = [_NUMBERS.get(word, word) for word in words]
    return " ".join(_CONTRACTIONS.get(word, word) for word in words if word not in _ARTICLES)


def strip_punctuation(text: str) -> str:
    """Without punctuation: a mark beside a space vanishes, one between words becomes a space.

    Where a comma stands between digits all marks vanish. Apostrophes, colons and decimal points stay.
    """
    stripped = text
    for mark in _PUNCTUATION:
        vanishes = f"{mark} " in text or f" {mark}" in text or _DIGIT_COMMA.search(text)
        stripped = stripped.replace(mark, "" if vanishes else " ")
    return _PERIOD.sub("", stripped, count=_PERIODS_AT_MOST)


def _misspelt(word: str) -> Iterator[str]:
    """A word with one of its apostrophes left out, each in turn."""
    for place, letter in enumerate(word):
        if letter == "'":
            yield word[:place] + word[place + 1 :]


def _contractions() -> dict[str, str]:
    words = [stem + ending for ending, stems in _ENDINGS.items() for stem in stems.split()] + _OTHERS.split()
    return {misspelt: word for word in words for misspelt in _misspelt(word)} | _TURNED_ROUND


_CONTRACTIONS = _contractions()
