"""An answer on the terminal as it grows, its thinking dimmed."""

from __future__ import annotations

import sys

from ms_impl.data.thinking import ThinkingStream

_DIM, _PLAIN = "\x1b[2m", "\x1b[22m"


class AnswerPrinter:
    """Prints pieces on stdout. What stands before ``think_end`` is dimmed on a terminal; elsewhere its tags tell it.

    ``think_end`` None: the answer has no thinking. To be used in ``with``: whatever ends it, the terminal is as it was.
    """

    def __init__(self, think_end: str | None):
        self._stream = ThinkingStream(think_end)
        self._dims = think_end is not None and sys.stdout.isatty()
        self._is_dim = False

    def __enter__(self) -> AnswerPrinter:
        return self

    def __exit__(self, *_: object) -> None:
        self._shade(False)
        sys.stdout.flush()

    def show(self, piece: str) -> None:
        """Print one more piece, as far as it is certain."""
        thinking, answer = self._stream.add(piece)
        self._write(thinking, dim=True)
        self._write(answer, dim=False)
        sys.stdout.flush()

    def end(self, note: str = "") -> None:
        """Print what was held back, a note, and the end of the line."""
        self._write(self._stream.finish(), dim=True)
        self._write(f"{note}\n", dim=False)
        sys.stdout.flush()

    def _write(self, text: str, dim: bool) -> None:
        if text:
            self._shade(dim)
        sys.stdout.write(text)

    def _shade(self, dim: bool) -> None:
        if self._dims and dim != self._is_dim:
            self._is_dim = dim
            sys.stdout.write(_DIM if dim else _PLAIN)
