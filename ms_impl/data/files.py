"""Files of conversations, read record by record: a JSON list, or one record after the other (JSONL).

One pass finds where each record stands; a record is parsed when it is asked for. So a file costs 16 bytes a record,
whatever its size.
"""

from __future__ import annotations

import codecs
import hashlib
import itertools
import json
import math
import os
import re
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ms_impl.data.conversations import Conversation, parse_record
from ms_impl.errors import InputError

_WINDOW = 1 << 18  # bytes read at a time; larger ones are no faster, and their fragments stay in memory
_LONGEST = 1 << 26  # characters; what is no whole record by then has a fault

_SPACE = re.compile(r"[ \t\r\n]*")
_END = "the end of the file"
_CHANGED = "the file was changed while it is in use; begin again"
_parse = json.JSONDecoder().raw_decode


class RecordFile(Sequence[Any]):
    """The records of a JSON or JSONL file, as parsed; at most the first ``num_samples``.

    The file is JSON if it begins with ``[``, and JSONL if with ``{``. ``sha256`` is that of the whole file. Several
    threads may read at once; a copy in another process opens the file anew.

    Raises InputError naming the file and the line when it cannot be read, is no JSON or holds no record; also when a
    record is asked for after the file's size or time has changed.
    """

    def __init__(self, path: str | Path, num_samples: int | None = None):
        if num_samples is not None and num_samples < 1:
            raise InputError(f"{path}: num_samples is {num_samples}; it must be at least 1")
        self.path = str(path)
        self._open()
        self._state = _state(os.fstat(self._file.fileno()))
        try:
            self._spans, self.sha256 = _index(self._file, self.path, num_samples)
        except OSError as error:
            raise InputError(f"{self.path}: cannot be read ({error.strerror})") from error
        self._check_unchanged()

    def __len__(self) -> int:
        return len(self._spans)

    def __getitem__(self, index: int) -> Any:
        number = range(len(self))[index]
        self._check_unchanged()
        start, end = self._spans[number].tolist()
        try:
            return json.loads(os.pread(self._file.fileno(), end - start, start))
        except OSError as error:
            raise InputError(f"{self.path}: cannot be read ({error.strerror})") from error
        except ValueError as error:  # changed, and its size and time set back
            raise InputError(f"{self.path}: {_CHANGED}") from error

    def name(self, index: int) -> str:
        """How errors name a record, before its id is known."""
        return f"{self.path}: record {index}"

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in vars(self).items() if key != "_file"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._open()

    def _open(self) -> None:
        try:
            self._file = open(self.path, "rb", buffering=0)
        except OSError as error:
            raise InputError(f"{self.path}: cannot be read ({error.strerror})") from error

    def _check_unchanged(self) -> None:
        try:
            state = _state(os.stat(self.path))
        except OSError as error:
            raise InputError(f"{self.path}: cannot be read any more ({error.strerror})") from error
        if state != self._state:
            raise InputError(f"{self.path}: {_CHANGED}")


class ConversationFile(RecordFile):
    """The conversations of a file. A record of another shape raises InputError naming it when it is asked for."""

    def __getitem__(self, index: int) -> Conversation:
        return parse_record(super().__getitem__(index), self.name(range(len(self))[index]))


class Mixture(Sequence[Conversation]):
    """Several files as one sequence, and how often each of its conversations comes up in an epoch.

    Args:
        files: (path, weight). In an epoch a file of weight 2.5 comes twice whole, and half of it once more.
        num_samples: take the first so many conversations of each file.

    Raises InputError as ConversationFile does, and for a weight that is not positive.
    """

    def __init__(self, files: Sequence[tuple[str | Path, float]], num_samples: int | None = None):
        if not files:
            raise InputError("no file of conversations is given")
        for path, weight in files:
            if not (weight > 0 and math.isfinite(weight)):
                raise InputError(f"{path}: weight {weight} is no positive number")
        self.files = [ConversationFile(path, num_samples) for path, _ in files]
        self._weights = [Fraction(str(weight)) for _, weight in files]  # as written: 0.1 is a tenth
        self._starts = np.cumsum([0, *map(len, self.files)])

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getitem__(self, index: int) -> Conversation:
        file, number = self._locate(index)
        return file[number]

    def name(self, index: int) -> str:
        """How errors name a record, before its id is known."""
        file, number = self._locate(index)
        return file.name(number)

    @property
    def digests(self) -> dict[str, str]:
        """Each file's sha256 by its path."""
        return {file.path: file.sha256 for file in self.files}

    def epoch(self, number: int, seed: int) -> np.ndarray:
        """The conversations of epoch ``number`` (from 0) by index, in the files' order: int64.

        The part of a file that a weight's fraction asks for goes round a random order of the file, from epoch to
        epoch, so that after any number of epochs no conversation has come up twice more often than another.
        """
        parts = []
        for place, (file, weight) in enumerate(zip(self.files, self._weights)):
            whole, fraction = divmod(weight, 1)
            begin, end = (math.floor(epochs * fraction * len(file)) for epochs in (number, number + 1))
            order = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(place,))).permutation(len(file))
            partial = np.sort(order[np.arange(begin, end) % len(file)])
            parts.append(self._starts[place] + np.concatenate([np.tile(np.arange(len(file)), int(whole)), partial]))
        return np.concatenate(parts)

    def _locate(self, index: int) -> tuple[ConversationFile, int]:
        position = range(len(self))[index]
        place = int(np.searchsorted(self._starts, position, side="right")) - 1
        return self.files[place], position - int(self._starts[place])


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


def _state(status: os.stat_result) -> tuple[int, int]:
    return status.st_size, status.st_mtime_ns


def _index(file: BinaryIO, path: str, num_samples: int | None) -> tuple[np.ndarray, str]:
    """Where the records of a file begin and end, int64 [records, 2] in bytes, and the file's sha256."""
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
