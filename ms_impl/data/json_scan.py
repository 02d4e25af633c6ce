"""Where the records of a JSON or JSONL file stand, found in one pass and in the memory of one window."""

from __future__ import annotations

import codecs
import hashlib
import itertools
import json
import re
from collections.abc import Iterator
from typing import Any, BinaryIO

import numpy as np

from ms_impl.data.records import is_record
from ms_impl.errors import InputError

_WINDOW = 1 << 18  # bytes read at a time; larger ones are no faster, and their fragments stay in memory
_LONGEST = 1 << 26  # characters; what is no whole record by then has a fault

_SPACE = re.compile(r"[ \t\r\n]*")
_MARK = re.compile(r'"(?:[^"\\]+|\\.)*"|["\[\]{}]', re.DOTALL)  # a string, the quote of one cut off, a bracket
_NUMBER = re.compile(r"[-+.\w]*")
_KEY = "conversations"
_END = "the end of the file"
_parse = json.JSONDecoder().raw_decode


def find_records(file: BinaryIO, path: str, num_samples: int | None) -> tuple[np.ndarray, str]:
    """Where the first ``num_samples`` records (all where None) of a file begin and end, and the file's sha256.

    The file is a JSON list if it begins with ``[``. If with ``{`` it is an object that has the list under
    ``conversations``, or else JSONL. Returns int64 [records, 2]: the offsets of a record's first byte
    and of the one after its last. Raises InputError naming ``path`` and the line if the file is no JSON, or holds no
    record. How deep a record is nested, or how long its numbers are, is left to whoever reads it.
    """
    text = _Text(file, path)
    text.skip_mark()
    spans = itertools.islice(_records(text), num_samples)
    flat = np.fromiter(itertools.chain.from_iterable(spans), np.int64)
    text.finish()
    return flat.reshape(-1, 2), text.digest.hexdigest()


def _records(text: _Text) -> Iterator[tuple[int, int]]:
    if text.peek() == "[":
        return _list(text)
    return _object(text) if text.enter_object() else _lines(text)


def _object(text: _Text) -> Iterator[tuple[int, int]]:
    """From the first record of an object's list on; whatever else the object has is skipped."""
    yield text.record()
    while text.take(",]") == ",":
        yield text.record()
    while text.take(",}") == ",":
        text.skip_member()
    text.take_end()


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


class _NotUtf8(InputError):
    pass


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
        self._advance(self._next(0))
        return self._char(0)

    def take(self, expected: str) -> str:
        """The next character, which must be one of ``expected``."""
        found = self.peek()
        if not found or found not in expected:
            raise self._unexpected(found, " or ".join(expected))
        self._advance(1)
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
        self._advance(self._end(0))
        return start, self._offset

    def enter_object(self) -> bool:
        """Go to the first record of an object that has a list of them, from the object's beginning; or stay there."""
        try:
            start = self._first_record()
        except _NotUtf8:
            raise
        except InputError:
            return False  # told when it is read as a record
        self._advance(start or 0)
        return start is not None

    def skip_member(self) -> None:
        """Go past a key of an object and its value."""
        self.peek()
        end = self._end(0)
        if self._value(0, end) == _KEY:
            raise self._fault(f"the key '{_KEY}' stands twice", 0)
        self._advance(end)
        self.take(":")
        self.peek()
        self._advance(self._end(0))

    def skip_mark(self) -> None:
        """Go past the byte order mark that some editors set at the beginning of a file."""
        if self.peek() == "\N{ZERO WIDTH NO-BREAK SPACE}":
            self._advance(1)

    def finish(self) -> None:
        """Read the rest of the file for its digest alone."""
        while chunk := self._file.read(_WINDOW):
            self.digest.update(chunk)

    # Positions are counted from the next character; reading on leaves them as they are.

    def _first_record(self) -> int | None:
        """The first record of the list in the object that begins here; None if there is no such list."""
        for key, at in self._members(0):
            if key == _KEY:
                start = self._next(at + 1)
                if self._char(at) == "[" and self._char(start) == "{":
                    return start if is_record(key for key, _ in self._members(start)) else None
                return None
        return None

    def _members(self, at: int) -> Iterator[tuple[Any, int]]:
        """The keys of the object that begins at ``at``, each with where its value begins, as far as it is JSON."""
        at = self._next(at + 1)
        while self._char(at) == '"':
            end = self._end(at)
            key, at = self._value(at, end), self._next(end)
            if self._char(at) != ":":
                return
            at = self._next(at + 1)
            yield key, at
            at = self._next(self._end(at))
            if self._char(at) != ",":
                return
            at = self._next(at + 1)

    def _char(self, at: int) -> str:
        return self._window[self._at + at : self._at + at + 1]

    def _next(self, at: int) -> int:
        """The next character from ``at`` on that is no white space."""
        while True:
            at = _end_of(_SPACE, self._window, self._at + at) - self._at
            if self._char(at) or self._ended:
                return at
            self._read()

    def _value(self, start: int, end: int) -> Any:
        try:
            return json.loads(self._window[self._at + start : self._at + end])
        except (ValueError, RecursionError):
            return None  # what cannot be read is told when it is asked for

    def _end(self, start: int) -> int:
        """Where the JSON value ends that begins at ``start``."""
        while True:
            try:
                end = _parse(self._window, self._at + start)[1] - self._at
                if self._char(end) or self._ended:
                    return end
            except json.JSONDecodeError as error:
                if self._is_hopeless(start):
                    at = error.pos - self._at
                    raise self._fault(f"not JSON ({error.msg}{self._hint(error)})", at) from error
            except (ValueError, RecursionError):  # a number of thousands of digits; brackets as deep
                return self._matching_end(start)
            self._read()

    def _matching_end(self, start: int) -> int:
        """The same without taking the value apart: by counting brackets, or where the number ends."""
        depth, at = 0, start
        is_number = self._char(start) not in "[{"
        while True:
            if is_number and (end := _end_of(_NUMBER, self._window, self._at + at)) < len(self._window):
                return end - self._at
            for mark in () if is_number else _MARK.finditer(self._window, self._at + at):
                if mark[0] == '"':
                    break
                at = mark.end() - self._at
                depth += {"[": 1, "{": 1, "]": -1, "}": -1}.get(mark[0], 0)
                if depth == 0:
                    return at
            if self._is_hopeless(start):
                raise self._fault("not JSON that can be read (a record is not ended)", start)
            self._read()

    def _is_hopeless(self, start: int) -> bool:
        """Whether reading on will not end the value that begins at ``start``."""
        return self._ended or len(self._window) - self._at - start > _LONGEST

    def _hint(self, error: json.JSONDecodeError) -> str:
        cut = error.msg.startswith("Unterminated string") or not self._window[error.pos :].strip()
        return "; the file ends within a record" if cut and self._ended else ""

    def _unexpected(self, found: str, expected: str) -> InputError:
        shown = found if found.isprintable() else ascii(found)
        return self._fault(f"expected {expected}, found {shown or _END}", 0)

    def _fault(self, reason: str, at: int) -> InputError:
        line = self._lines + self._window.count("\n", 0, self._at + at) + 1
        return InputError(f"{self._path}: line {line}: {reason}")

    def _advance(self, count: int) -> None:
        end = self._at + count
        self._offset += len(self._window[self._at : end].encode())
        self._at = end

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
            reason = f"not UTF-8 ({error.reason}); save the file as UTF-8"
            raise _NotUtf8(str(self._fault(reason, len(self._window) - self._at))) from error


def _end_of(pattern: re.Pattern[str], text: str, start: int) -> int:
    """Where a pattern that matches everywhere, if only nothing, ends that begins at ``start``."""
    found = pattern.match(text, start)
    assert found is not None
    return found.end()
