"""Tokens of an answer → its text, at the end or while it grows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from ms_impl.generate.decoding import StopWords, ends_with, without_stop

Decode = Callable[[Sequence[int]], str]


class Detokenizer(Protocol):
    """Decodes token by token; what all calls returned, joined, is the text of all tokens."""

    def add(self, token: int) -> str:
        """The text that became certain with this token; may be empty."""

    def finish(self) -> str:
        """The text that was held back."""


def answer_text(tokens: Sequence[int], stops: StopWords, decode: Decode) -> str:
    """The text of a whole answer without its stop word and the space around it; box and ref tags stay."""
    return decode(without_stop(tokens, stops)).strip()


class TextStreamer:
    """Cuts a growing answer into pieces that together are ``answer_text``.

    Held back until it is clear what they are: what the detokenizer holds, the beginning of a stop word, and white
    space that may be the end. A token costs the same however long the answer is.
    """

    def __init__(self, stops: StopWords, detokenizer: Detokenizer):
        self._stops = [list(stop) for stop in stops]
        self._detokenizer = detokenizer
        self._doubtful: list[int] = []  # the last tokens, which may be, or are, a stop word
        self._space = ""
        self._pieces: list[str] = []

    @property
    def shown(self) -> str:
        """The answer so far."""
        return "".join(self._pieces)

    def add(self, token: int) -> str:
        """The text that became certain with this token; may be empty."""
        self._doubtful.append(token)
        certain = len(self._doubtful) - self._stop_begun()
        text = "".join(map(self._detokenizer.add, self._doubtful[:certain]))
        del self._doubtful[:certain]
        return self._advance(text)

    def finish(self) -> str:
        """What was held back and belongs to the answer."""
        held = without_stop(self._doubtful, self._stops)
        return self._advance("".join(map(self._detokenizer.add, held)) + self._detokenizer.finish())

    def _advance(self, text: str) -> str:
        """The text after what is shown, without the white space that may be the end, which waits."""
        if not text:
            return ""
        text = self._space + text if self._pieces else text.lstrip()
        piece = text.rstrip()
        self._space = text[len(piece) :]
        if piece:
            self._pieces.append(piece)
        return piece

    def _stop_begun(self) -> int:
        """How many of the last tokens may be, or are, a stop word."""
        longest = len(self._doubtful)
        lengths = (
            n
            for stop in self._stops
            for n in range(1, min(len(stop), longest) + 1)
            if ends_with(self._doubtful, stop[:n])
        )
        return max(lengths, default=0)
