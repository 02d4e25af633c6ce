"""What an evaluation found, as files and as a table."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ms_impl.errors import InputError
from ms_impl.io.atomic_write import atomic_write

_ESCAPED = {code: f"\\u{code:04x}" for code in (0x85, 0x2028, 0x2029)}


@dataclass(frozen=True)
class Result:
    """The figures of one data set, by name."""

    name: str
    metric: str
    records: int
    scores: Mapping[str, float]


def table(results: Sequence[Result]) -> str:
    """Results for people to read, one line a data set."""
    rows = [("data set", "metric", "records", "scores")]
    for result in results:
        scores = ", ".join(f"{name} {score:.4f}" for name, score in result.scores.items())
        rows.append((result.name, result.metric, f"{result.records:,}", scores))
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    return "\n".join(f"{a:{widths[0]}}  {b:{widths[1]}}  {c:>{widths[2]}}  {d}" for a, b, c, d in rows)


def save_scores(results: Sequence[Result], path: Path) -> None:
    """The figures as JSON: metric, number of records and scores of each data set."""
    scores = {result.name: {"metric": result.metric, "records": result.records, **result.scores} for result in results}
    _write(path, json.dumps(scores, indent=1).encode() + b"\n")


def save_lines(lines: Iterable[Mapping[str, Any]], path: Path) -> None:
    """JSONL."""
    _write(path, b"".join(map(json_line, lines)))


def json_line(content: Mapping[str, Any]) -> bytes:
    """One line of JSONL, also to readers that take U+2028 and its like for the end of one.

    Half a surrogate pair, which no file can hold, becomes a question mark.
    """
    return json.dumps(content, ensure_ascii=False).translate(_ESCAPED).encode(errors="replace") + b"\n"


def check_writable(paths: Iterable[Path]) -> None:
    """Raise InputError where a file cannot be written later: found before hours of answers, not after them."""
    for path in paths:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise _not_written(path.parent, error) from error
        if path.is_dir():
            raise InputError(f"{path}: is a directory, where a file of results will be written")
        if not os.access(path.parent, os.W_OK | os.X_OK):
            raise InputError(f"{path.parent}: cannot be written (no permission)")


def _write(path: Path, content: bytes) -> None:
    """The file appears when it is complete."""
    try:
        with atomic_write(path) as partial:
            partial.write_bytes(content)
    except OSError as error:
        raise _not_written(path, error) from error


def _not_written(path: Path, error: OSError) -> InputError:
    return InputError(f"{path}: cannot be written ({error.strerror})")
