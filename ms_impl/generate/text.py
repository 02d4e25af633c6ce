"""Tokens of an answer → its text, at the end or while it grows."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ms_impl.generate.decoding import StopWords, ends_with, without_stop

Decode = Callable[[Sequence[int]], str]
_UNKNOWN = "\N{REPLACEMENT CHARACTER}"


def answer_text(tokens: Sequence[int], stops: StopWords, decode: Decode) -> str:
    """The text of a whole answer without its stop word and the space around it; box and ref tags stay."""
    return decode(without_stop(tokens, stops)).strip()


class TextStreamer:
    """Cuts a growing answer into pieces that together are ``answer_text``.

    Held back until it is clear what they are: the bytes of an unfinished character, the beginning of a stop word, and
    white space that may be the end.
    """

    def __init__(self, stops: StopWords, decode: Decode):
        self.stops = stops
        self.decode = decode
        self.tokens: list[int] = []
        self.shown = ""

    def add(self, token: int) -> str:
        """The text that became certain with this token; may be empty."""
        self.tokens.append(token)
        certain = self.decode(self.tokens[: len(self.tokens) - self._doubtful()])
        return self._advance(certain.rstrip(_UNKNOWN).strip())

    def finish(self) -> str:
        """What was held back and belongs to the answer."""
        return self._advance(answer_text(self.tokens, self.stops, self.decode))

    def _advance(self, text: str) -> str:
        piece = text[len(self.shown) :]
        self.shown += piece
        return piece

    def _doubtful(self) -> int:
        """How many of the last tokens may be, or are, a stop word."""
        lengths = (n for stop in self.stops for n in range(1, len(stop) + 1) if ends_with(self.tokens, stop[:n]))
        return max(lengths, default=0)
