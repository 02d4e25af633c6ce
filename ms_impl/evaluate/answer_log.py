"""Answers on disk as they come, so that an evaluation that was killed goes on where it stood.

Answers are kept by batch: batches are the same whatever the number of ranks, and a batch that was not finished is asked
again as a whole, so that every answer is the one an undisturbed run gives.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

Answers = list[Any]


class AnswerLog:
    """The files ``rank_N.jsonl`` of a folder: a line with the fingerprint of the evaluation, then one a batch.

    Files with another fingerprint hold answers to other questions, or of other weights or settings: they are not read.
    """

    def __init__(self, folder: Path, fingerprint: str):
        self.folder = folder
        self.fingerprint = fingerprint

    def read(self) -> dict[int, Answers]:
        """The answers of all ranks, by batch."""
        answers: dict[int, Answers] = {}
        for path in sorted(self.folder.glob("rank_*.jsonl")):
            answers |= self._read(path)
        return answers

    def append(self, rank: int) -> "AnswerWriter":
        """Go on with one rank's file."""
        path = self.folder / f"rank_{rank}.jsonl"
        self.folder.mkdir(parents=True, exist_ok=True)
        kept = self._read(path) if path.exists() else {}
        return AnswerWriter(path, self.fingerprint, kept)

    def _read(self, path: Path) -> dict[int, Answers]:
        header, *lines = [*_whole_lines(path), {}]
        if header.get("fingerprint") != self.fingerprint:
            return {}
        return {line["batch"]: line["answers"] for line in lines if line}


class AnswerWriter:
    """Adds batches to a file; what it held stays, but for a last line that was cut off."""

    def __init__(self, path: Path, fingerprint: str, kept: dict[int, Answers]):
        aside = path.with_name(f".{path.name}.part")
        self._file = aside.open("w", encoding="utf-8")
        self._write({"fingerprint": fingerprint})
        for batch, answers in kept.items():
            self.write(batch, answers)
        os.replace(aside, path)

    def write(self, batch: int, answers: Answers) -> None:
        """One batch, flushed at once."""
        self._write({"batch": batch, "answers": answers})

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def _write(self, line: dict[str, Any]) -> None:
        self._file.write(json.dumps(line, ensure_ascii=False) + "\n")
        self._file.flush()


def _whole_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The lines of a file up to the first one that a kill has cut off."""
    for line in path.read_bytes().splitlines(keepends=True):
        if not line.endswith(b"\n"):
            return
        yield json.loads(line)
