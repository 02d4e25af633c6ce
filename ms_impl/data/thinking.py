"""Answers that begin with their thinking: the thinking apart from what is answered, whole or while it grows.

``end`` is a template's ``think_end``, the text that ends the thinking; None where answers have none.
"""

from __future__ import annotations


def split_thinking(text: str, end: str | None) -> tuple[str, str]:
    """The thinking up to and with its first end, and the answer, without the space around them.

    All is answer where the thinking does not end, or there is none: the text as it is.
    """
    if end is None or end not in text:
        return "", text
    thinking, _, answer = text.partition(end)
    return (thinking + end).strip(), answer.strip()


class ThinkingStream:
    """Cuts the pieces of a growing answer where its thinking ends: what is in it, and what comes after.

    An end that is spread over pieces is found; a piece is held back only as far as it may be the beginning of one.
    """

    def __init__(self, end: str | None):
        self._end = end
        self._held = ""

    @property
    def ended(self) -> bool:
        """Whether the thinking has ended."""
        return self._end is None

    def add(self, piece: str) -> tuple[str, str]:
        """What of the text so far is certain now: more of the thinking, and more of the answer; either may be empty."""
        if self._end is None:
            return "", piece
        text = self._held + piece
        if self._end in text:
            thinking, _, answer = text.partition(self._end)
            thinking, self._held, self._end = thinking + self._end, "", None
            return thinking, answer
        begun = max((n for n in range(1, len(self._end)) if text.endswith(self._end[:n])), default=0)
        self._held = text[len(text) - begun :]
        return text[: len(text) - begun], ""

    def finish(self) -> str:
        """What was held back, of thinking that did not end."""
        held, self._held = self._held, ""
        return held
