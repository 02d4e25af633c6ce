"""An answer's thinking apart from what it says, while it grows."""

from __future__ import annotations

from ms_impl.data.thinking import ThinkingStream


class Trimmed:
    """A growing text without the white space at its ends."""

    def __init__(self) -> None:
        self._begun, self._space = False, ""

    def add(self, text: str) -> str:
        """What is certain of it now."""
        text = self._space + text if self._begun else text.lstrip()
        certain = text.rstrip()
        self._begun |= bool(certain)
        self._space = text[len(certain) :]
        return certain


class Reasoning:
    """Cuts the pieces of an answer into its thinking, without tags, and what it says.

    Args:
        end: the text that ends the thinking; None: there is none, and all is said. What has no end is thinking.
    """

    def __init__(self, end: str | None):
        self._stream = ThinkingStream(end)
        self._end = end
        self._opening = end.replace("/", "", 1) if end else ""
        self._undecided = ""  # the beginning, as long as it may be the opening tag
        self._thinking, self._said = Trimmed(), Trimmed()

    def add(self, text: str, last: bool = False) -> tuple[str, str]:
        """More of the thinking, and more of what is said."""
        if self._end is None:
            return "", text
        ended = self._stream.ended
        thinking, said = self._stream.add(text)
        if last and not self._stream.ended:
            thinking += self._stream.finish()
        if not ended and self._stream.ended:
            thinking = thinking.removesuffix(self._end)
            last = True
        return self._thinking.add(self._opened(thinking, last)), self._said.add(said)

    def _opened(self, text: str, last: bool) -> str:
        """The thinking without its opening tag."""
        if not self._opening:
            return text
        self._undecided += text
        begun = self._undecided.lstrip()
        if not last and self._opening.startswith(begun):
            return ""
        text, self._undecided, opening = self._undecided, "", self._opening
        self._opening = ""
        return begun.removeprefix(opening) if begun.startswith(opening) else text
