"""Files of conversations, read record by record: a JSON list, or one record after the other (JSONL).

One pass finds where each record stands; a record is parsed when it is asked for. So a file costs 16 bytes a record,
whatever its size.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import stat
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from ms_impl.data.json_scan import find_records
from ms_impl.data.records import Conversation, parse_record
from ms_impl.errors import InputError, quote
from ms_impl.io.json_files import parse_json

_PART = re.compile(r"(?P<path>.+)#(?P<count>\d{1,9})")
_HEAVIEST = 10_000  # an epoch with more copies of a file is a mistake
_CHANGED = "the file changed while in use; start again"


def part_of(name: str | Path) -> tuple[str, int | None]:
    """``FILE#N``, N records of a file, as ms-swift writes it → FILE and N; a file that is called so is meant whole."""
    match = _PART.fullmatch(str(name))
    return (match["path"], int(match["count"])) if match and not os.path.isfile(name) else (str(name), None)


def sampled(records: int, count: int, seed: int | None) -> np.ndarray:
    """Which ``count`` of so many records ``FILE#count`` takes, as in ms-swift: int64 [count].

    All as often as ``count`` has room for; of the rest some at random, each once, or the first without a ``seed``. Of
    one seed, fewer are among more.
    """
    whole, rest = divmod(count, records)
    order = np.arange(records) if seed is None else np.random.default_rng(seed).permutation(records)
    return np.concatenate([np.tile(np.arange(records), whole), np.sort(order[:rest])])


class RecordFile(Sequence[Any]):
    """The records of a JSON or JSONL file, as parsed; at most the first ``num_samples``.

    ``json_scan.find_records`` says which layouts are known. ``path`` may be ``FILE#N``: ``sampled`` says which records
    that takes, with the ``seed``; ``label`` is what was given. ``sha256`` is that of the whole file, and of what is
    taken. Several threads may read at once; a copy in another process opens the file anew.

    Raises InputError naming the file and the line when it cannot be read, is no JSON or holds no record. When a record
    is asked for: naming it, for what ``ms_impl.io.json_files.parse_json`` refuses; and if the file's size or time has
    changed.
    """

    def __init__(self, path: str | Path, num_samples: int | None = None, seed: int | None = None):
        is_count = isinstance(num_samples, int) and not isinstance(num_samples, bool) and num_samples >= 1
        if num_samples is not None and not is_count:
            raise InputError(f"{path}: num_samples must be a positive whole number, not {quote(num_samples)}")
        self.label = str(path)
        self.path, count = part_of(path)
        if count == 0:
            raise InputError(f"{path}: takes no record; give a number above 0, or the file alone")
        self._open()
        self._state = _state(os.fstat(self._file.fileno()))
        try:
            self._spans, self.sha256 = find_records(self._file, self.path, None if count else num_samples)
        except OSError as error:
            raise InputError(f"{self.path}: cannot be read ({error.strerror})") from error
        self._check_unchanged()
        self._numbers = np.arange(len(self._spans)) if count is None else self._take(count, num_samples, seed)

    def _take(self, count: int, num_samples: int | None, seed: int | None) -> np.ndarray:
        """Leave the records of ``FILE#count`` alone; returns their numbers in the file."""
        numbers = sampled(len(self._spans), count, seed)[:num_samples]
        self._spans = self._spans[numbers]
        self.sha256 = hashlib.sha256(self.sha256.encode() + numbers.tobytes()).hexdigest()
        return numbers

    def __len__(self) -> int:
        return len(self._spans)

    def __getitem__(self, index: int) -> Any:  # type: ignore[override]  # slices are not needed
        number = range(len(self))[index]
        self._check_unchanged()
        start, end = self._spans[number].tolist()
        try:
            data = os.pread(self._file.fileno(), end - start, start)
        except OSError as error:
            raise InputError(f"{self.path}: cannot be read ({error.strerror})") from error
        try:
            return parse_json(data, self.name(number))
        except InputError as error:
            if not _is_json(data):  # changed, and its size and time set back
                raise InputError(f"{self.path}: {_CHANGED}") from error
            raise

    def name(self, index: int) -> str:
        """How errors name a record, before its id is known."""
        return f"{self.path}: record {self._numbers[index]}"

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in vars(self).items() if key != "_file"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._open()

    def _open(self) -> None:
        """Open the file; a pipe would be waited for, and cannot be read twice."""
        try:
            self._file = open(self.path, "rb", buffering=0, opener=_without_waiting)  # noqa: SIM115 (kept open)
        except (OSError, ValueError) as error:  # ValueError: a NUL in its name
            raise InputError(f"{self.path}: cannot be read ({getattr(error, 'strerror', error)})") from error
        if not stat.S_ISREG(os.fstat(self._file.fileno()).st_mode):
            self._file.close()
            raise InputError(f"{self.path}: cannot be read: not a regular file; give the path of a JSON file")

    def _check_unchanged(self) -> None:
        try:
            state = _state(os.stat(self.path))
        except OSError as error:
            raise InputError(f"{self.path}: can no longer be read ({error.strerror})") from error
        if state != self._state:
            raise InputError(f"{self.path}: {_CHANGED}")


class ConversationFile(RecordFile):
    """The conversations of a file. A record of another shape raises InputError naming it when it is asked for."""

    def __getitem__(self, index: int) -> Conversation:  # type: ignore[override]  # slices are not needed
        return parse_record(super().__getitem__(index), self.name(range(len(self))[index]))


class Mixture(Sequence[Conversation]):
    """Several files as one sequence, and how often each of its conversations comes up in an epoch.

    Args:
        files: (path, weight). In an epoch a file of weight 2.5 comes twice whole, and half of it once more.
        num_samples: take the first so many conversations of each file.
        seed: of what ``FILE#N`` takes; None: the first N.

    Raises InputError as ConversationFile does, and for a weight that is not positive.
    """

    def __init__(
        self, files: Sequence[tuple[str | Path, float]], num_samples: int | None = None, seed: int | None = None
    ):
        if not files:
            raise InputError("no file of conversations is given")
        for path, weight in files:
            is_number = isinstance(weight, int | float) and not isinstance(weight, bool)
            if not (is_number and 0 < weight <= _HEAVIEST):
                raise InputError(f"{path}: weight must be positive and at most {_HEAVIEST:,}, not {quote(weight)}")
        self.files = [ConversationFile(path, num_samples, seed) for path, _ in files]
        self._weights = [Fraction(str(weight)) for _, weight in files]  # as written: 0.1 is a tenth
        self._starts = np.cumsum([0, *map(len, self.files)])

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getitem__(self, index: int) -> Conversation:  # type: ignore[override]
        file, number = self._locate(index)
        return file[number]

    def name(self, index: int) -> str:
        """How errors name a record, before its id is known."""
        file, number = self._locate(index)
        return file.name(number)

    @property
    def digests(self) -> dict[str, str]:
        """Each file's sha256 by its path, or ``FILE#N``."""
        return {file.label: file.sha256 for file in self.files}

    def epoch(self, number: int, seed: int) -> np.ndarray:
        """The conversations of epoch ``number`` (from 0) by index, in the files' order: int64.

        The part of a file that a weight's fraction asks for goes round a random order of the file, from epoch to
        epoch: after any number of epochs each conversation of the file has come up equally often, give or take once.
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


def _state(status: os.stat_result) -> tuple[int, int]:
    return status.st_size, status.st_mtime_ns


def _is_json(data: bytes) -> bool:
    try:
        json.loads(data)
    except (json.JSONDecodeError, UnicodeDecodeError):
        return False
    except (ValueError, RecursionError):  # a number of thousands of digits; brackets as deep
        pass
    return True


def _without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)
