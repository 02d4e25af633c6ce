"""What was heard against what was said: error rates of words and characters, by jiwer."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from importlib import import_module

from ms_impl.errors import InputError

_INSTALL = "pip install -e '.[eval]'"
_KEPT = "'’"  # within words: it's


def words(text: str) -> list[str]:
    """The words of a text: lower case, in NFKC, without punctuation and symbols."""
    letters = unicodedata.normalize("NFKC", text).lower().replace("’", "'")
    return "".join(_spoken(letter) for letter in letters).split()


def error_rate(references: Sequence[str], answers: Sequence[str], of_characters: bool = False) -> float:
    """Substitutions, deletions and insertions over the words of all references; more than 1 where many are inserted.

    ``of_characters``: of characters instead, spaces left out, as it is done where words are not told apart (Chinese).
    Raises InputError where jiwer is not installed.
    """
    try:
        jiwer = import_module("jiwer")
    except ImportError as error:
        raise InputError(f"metric wer needs the package jiwer: {_INSTALL}") from error
    joined = "" if of_characters else " "
    said, heard = ([joined.join(words(text)) for text in texts] for texts in (references, answers))
    measure = jiwer.process_characters if of_characters else jiwer.process_words
    found = measure(said, heard)
    return float(found.cer if of_characters else found.wer)


def _spoken(letter: str) -> str:
    """The letter; a space for what separates words, nothing for marks that stand in none."""
    if letter in _KEPT or unicodedata.category(letter)[0] in "LNM":
        return letter
    return " "
