"""Answers on disk as they come, so that an evaluation that was killed can be resumed.

Answers are kept by batch: batches are the same whatever the number of ranks, and a batch that was not finished is asked
again as a whole, so that every answer is the one an undisturbed run gives.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

from ms_impl.errors import InputError
from ms_impl.evaluate.results import json_line
from ms_impl.io.atomic_write import atomic_write
from ms_impl.io.json_files import check_file, parse_json, unreadable

logger = logging.getLogger(__name__)

Answers = list[Any]


class AnswerLog:
    """The files ``rank_N.jsonl`` of a directory: a line with the fingerprint of the evaluation, then one a batch.

    Files with another fingerprint hold answers to other questions, or of other weights or settings: they are not read.
    ``accepts`` says whether a batch, by its number, can have such answers.
    """

    def __init__(self, directory: Path, fingerprint: str, accepts: Callable[[int, Answers], bool] = lambda *_: True):
        self.directory = directory
        self.fingerprint = fingerprint
        self._accepts = accepts

    def read(self) -> dict[int, Answers]:
        """The answers of all ranks, by batch.

        A last line that a kill has cut off is dropped, with a warning. Raises InputError naming the file and the line
        where a file holds anything else.
        """
        answers: dict[int, Answers] = {}
        for path in sorted(self.directory.glob("rank_*.jsonl")):
            answers |= self._read(path)
        return answers

    def append(self, rank: int) -> AnswerWriter:
        """Go on with one rank's file. Raises InputError as ``read`` does, and where it cannot be written."""
        path = self.directory / f"rank_{rank}.jsonl"
        return AnswerWriter(path, self.fingerprint, self._read(path) if path.exists() else {})

    def _read(self, path: Path) -> dict[int, Answers]:
        lines = _whole_lines(path)
        header = next(lines, None)
        if header is None:
            return {}
        where, content = header
        if not isinstance(content.get("fingerprint"), str):
            raise _damaged(where, "it is not the first line of an answer log")
        if content["fingerprint"] != self.fingerprint:
            return {}
        answers: dict[int, Answers] = {}
        for where, content in lines:
            number, given = content.get("batch"), content.get("answers")
            if type(number) is not int or not isinstance(given, list) or number in answers:
                raise _damaged(where, "it does not hold the answers of one of this evaluation's batches")
            if not self._accepts(number, given):
                raise _damaged(where, "it does not hold the answers of one of this evaluation's batches")
            answers[number] = given
        return answers


class AnswerWriter:
    """Adds batches to a file; what it held stays, but for a last line that was cut off."""

    def __init__(self, path: Path, fingerprint: str, kept: dict[int, Answers]):
        self._path = path
        lines: list[dict[str, Any]] = [
            {"fingerprint": fingerprint},
            *({"batch": number, "answers": kept[number]} for number in kept),
        ]
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with atomic_write(path) as partial:
                partial.write_bytes(b"".join(map(json_line, lines)))
            self._file = path.open("ab")
        except OSError as error:
            raise self._not_written(error) from error

    def write(self, batch: int, answers: Answers) -> None:
        """One batch, flushed at once."""
        try:
            self._file.write(json_line({"batch": batch, "answers": answers}))
            self._file.flush()
        except OSError as error:
            raise self._not_written(error) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def _not_written(self, error: OSError) -> InputError:
        return InputError(f"{self._path}: cannot be written ({error.strerror})")


def _whole_lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Where each line stands, for errors, and what it holds; but for what follows the last newline."""
    check_file(path)
    try:
        *lines, cut_off = path.read_bytes().split(b"\n")
    except OSError as error:
        raise unreadable(path, error) from error
    if cut_off:
        logger.warning("%s: the last line is cut off; its batch is asked again", path)
    for number, line in enumerate(lines, start=1):
        where = f"{path}: line {number}"
        try:
            yield where, parse_json(line, where, finite=False)
        except InputError as error:
            raise _damaged(where, str(error).removeprefix(f"{where}: ")) from error


def _damaged(where: str, reason: str) -> InputError:
    return InputError(f"{where}: {reason}; delete this file to ask its questions again")
