"""Where the records of a JSON or JSONL file stand, found in one pass and in the memory of one window."""

from __future__ import annotations

import codecs
import hashlib
import itertools
import json
import re
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np

from ms_impl.errors import InputError

_WINDOW = 1 << 18  # bytes read at a time; larger ones are no faster, and their fragments stay in memory
_LONGEST = 1 << 26  # characters; what is no whole record by then has a fault

_SPACE = re.compile(r"[ \t\r\n]*")
_END = "the end of the file"
_parse = json.JSONDecoder().raw_decode


def find_records(file: BinaryIO, path: str, num_samples: int | None) -> tuple[np.ndarray, str]:
    """Where the first ``num_samples`` records (all where None) of a file begin and end, and the file's sha256.

    The file is a JSON list if it begins with ``[``, and JSONL if with ``{``. Returns int64 [records, 2]: the offsets of
    a record's first byte and of the one after its last. Raises InputError naming ``path`` and the line if the file is
    no JSON, or holds no record.
    """
    text = _Text(file, path)
    text.skip_mark()
    spans = itertools.islice(_list(text) if text.peek() == "[" else _lines(text), num_samples)
    flat = np.fromiter(itertools.chain.from_iterable(spans), np.int64)
    text.finish()
    return flat.reshape(-1, 2), text.digest.hexdigest()


def _list(text: _Text) -> Iterator[tuple[int, int]]:
    text.take("[")
    yield text.record()
    while text.take(",]") == ",":
        yield text.record()
    text.take_end()


def _lines(text: _Text) -> Iterator[tuple[int, int]]:
    yield text.record()
    while text.peek():
        yield text.record()


class _Text:
    """A file's text from the record being read on, as a window that moves over the file."""

    def __init__(self, file: BinaryIO, path: str):
        self.digest = hashlib.sha256()
        self._file = file
        self._path = path
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._window = ""
        self._at = 0  # the next character of the window
        self._offset = 0  # bytes of the file before that character
        self._lines = 0  # lines of the file before the window
        self._ended = False

    def peek(self) -> str:
        """The next character that is no white space; nothing at the end of the file."""
        while True:
            self._advance(_SPACE.match(self._window, self._at).end())
            if self._at < len(self._window) or self._ended:
                return self._window[self._at : self._at + 1]
            self._read()

    def take(self, expected: str) -> str:
        """The next character, which must be one of ``expected``."""
        found = self.peek()
        if not found or found not in expected:
            raise self._unexpected(found, " or ".join(expected))
        self._advance(self._at + 1)
        return found

    def take_end(self) -> None:
        """Raise InputError unless the file ends here."""
        if found := self.peek():
            raise self._unexpected(found, _END)

    def record(self) -> tuple[int, int]:
        """Go past the next record: the offsets of its first byte and of the one after its last."""
        found = self.peek()
        if found != "{":
            raise self._unexpected(found, "a record, {…}")
        start = self._offset
        self._advance(self._record_end())
        return start, self._offset

    def skip_mark(self) -> None:
        """Go past the byte order mark that some editors set at the beginning of a file."""
        if self.peek() == "\N{ZERO WIDTH NO-BREAK SPACE}":
            self._advance(self._at + 1)

    def finish(self) -> None:
        """Read the rest of the file for its digest alone."""
        while chunk := self._file.read(_WINDOW):
            self.digest.update(chunk)

    def _record_end(self) -> int:
        while True:
            try:
                return _parse(self._window, self._at)[1]
            except json.JSONDecodeError as error:
                if self._ended or len(self._window) - self._at > _LONGEST:
                    raise self._fault(f"not JSON ({error.msg}{self._hint(error)})", error.pos) from error
            except (ValueError, RecursionError) as error:  # a number of thousands of digits; brackets as deep
                raise self._fault(f"not JSON that can be read ({error})", self._at) from error
            self._read()

    def _hint(self, error: json.JSONDecodeError) -> str:
        cut = error.msg.startswith("Unterminated string") or not self._window[error.pos :].strip()
        return "; the file ends within a record" if cut and self._ended else ""

    def _unexpected(self, found: str, expected: str) -> InputError:
        return self._fault(f"expected {expected}, found {found or _END}", self._at)

    def _fault(self, reason: str, position: int) -> InputError:
        line = self._lines + self._window.count("\n", 0, position) + 1
        return InputError(f"{self._path}: line {line}: {reason}")

    def _advance(self, position: int) -> None:
        self._offset += len(self._window[self._at : position].encode())
        self._at = position

    def _read(self) -> None:
        """Drop what is done with and read on: as much again as is left, so that a long record costs linear time."""
        self._lines += self._window.count("\n", 0, self._at)
        self._window, self._at = self._window[self._at :], 0
        chunk = self._file.read(max(_WINDOW, len(self._window)))
        self.digest.update(chunk)
        self._ended = not chunk
        try:
            self._window += self._decoder.decode(chunk, final=self._ended)
        except UnicodeDecodeError as error:
            self._window += error.object[: error.start].decode()
            raise self._fault(f"not UTF-8 ({error.reason})", len(self._window)) from error
