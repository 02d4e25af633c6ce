"""Files of conversations, read record by record: a JSON list, or one record after the other (JSONL).

One pass finds where each record stands; a record is parsed when it is asked for. So a file costs 16 bytes a record,
whatever its size.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from ms_impl.data.json_scan import find_records
from ms_impl.data.records import Conversation, parse_record
from ms_impl.errors import InputError

_CHANGED = "the file was changed while it is in use; begin again"


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
            self._spans, self.sha256 = find_records(self._file, self.path, num_samples)
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
