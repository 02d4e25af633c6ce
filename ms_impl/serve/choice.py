"""One answer of a request while it grows: its text up to a stop, why it ended, and what its tokens were worth."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ms_impl.generate.decoding import Answer, StopWords, ends_with
from ms_impl.generate.text import TextStreamer

STOP, LENGTH = "stop", "length"


@dataclass(frozen=True)
class TokenWorth:
    """A token with its log-probability before temperature and penalties, and the likeliest of its place."""

    token: bytes
    logprob: float
    top: tuple[tuple[bytes, float], ...]


@dataclass(frozen=True)
class Piece:
    """What came with one token. ``reason`` is set at the end: ``stop`` or ``length``."""

    text: str = ""
    worths: tuple[TokenWorth, ...] = ()
    reason: str | None = None


class Choice:
    """An answer, its text and its log-probabilities.

    Args:
        answer: without tokens yet.
        text: what turns its tokens into text; it knows the same stop words.
        stop: texts that end the answer, and are not in it.
        stop_words: the token sequences that end it.
        top: how many of the likeliest tokens to report; None: no log-probabilities at all.
        bytes_of: the bytes of a token.
    """

    def __init__(
        self, answer: Answer, text: TextStreamer, stop: Sequence[str], stop_words: StopWords, top: int | None,
        bytes_of: Callable[[int], bytes],
    ):  # fmt: skip
        self.answer = answer
        self.reason: str | None = None
        self._text = text
        self._cutter = StopCutter(stop)
        self._stop_words = stop_words
        self._top = top
        self._bytes_of = bytes_of
        self._held: list[TokenWorth] = []  # of tokens that may turn out to be a stop word
        self._hold = max((len(word) for word in stop_words), default=1) - 1

    @property
    def finished(self) -> bool:
        return self.reason is not None

    def extend(self, logits: np.ndarray) -> Piece:
        """Take the next token by logits [vocab]; what is certain with it."""
        token = self.answer.extend(logits)
        if self._top is not None:
            self._held.append(token_worth(logits, token, self._top, self._bytes_of))
        text = self._cutter.add(self._text.add(token))
        if self._cutter.found:
            self.reason = STOP
        elif self.answer.finished:
            text += self._cutter.add(self._text.finish())
            text += self._cutter.finish()
            self.reason = STOP if self.answer.stopped or self._cutter.found else LENGTH
        return Piece(text, self._certain_worths(), self.reason)

    def _certain_worths(self) -> tuple[TokenWorth, ...]:
        """Those of tokens that are no part of a stop word."""
        if self.finished:
            end = next((len(word) for word in self._stop_words if ends_with(self.answer.tokens, word)), 0)
            count = len(self._held) - end
        else:
            count = len(self._held) - self._hold
        count = max(count, 0)
        worths, self._held = self._held[:count], self._held[count:]
        return tuple(worths)


class StopCutter:
    """Cuts a growing text where the first of some stops begins; holds back what may be the beginning of one."""

    def __init__(self, stops: Sequence[str]):
        self._stops = list(stops)
        self._held = ""
        self.found = False

    def add(self, text: str) -> str:
        """What is certain not to be part of a stop."""
        if self.found or not text:
            return ""
        text = self._held + text
        places = [place for stop in self._stops if (place := text.find(stop)) >= 0]
        if places:
            self.found, self._held = True, ""
            return text[: min(places)]
        begun = max((overlap(text, stop) for stop in self._stops), default=0)
        self._held = text[len(text) - begun :]
        return text[: len(text) - begun]

    def finish(self) -> str:
        """What was held back and belongs to the text."""
        held, self._held = self._held, ""
        return "" if self.found else held


def overlap(text: str, stop: str) -> int:
    """How many characters at the end of a text begin ``stop``."""
    return next((n for n in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:n])), 0)


def token_worth(logits: np.ndarray, token: int, top: int, bytes_of: Callable[[int], bytes]) -> TokenWorth:
    """The log-probability of a token, and those of the ``top`` likeliest, by logits [vocab]."""
    scores = logits.astype(np.float64)
    scores -= scores.max()
    scores -= np.log(np.exp(scores).sum())
    best: np.ndarray = np.empty(0, np.int64)
    if top:
        best = np.argpartition(-scores, min(top, scores.size) - 1)[:top]
        best = best[np.lexsort((best, -scores[best]))]
    likeliest = tuple((bytes_of(int(each)), float(scores[each])) for each in best)
    return TokenWorth(bytes_of(token), float(scores[token]), likeliest)
