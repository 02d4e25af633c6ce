"""What an evaluation found, as files and as a table."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ms_impl.errors import InputError


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
    _write(path, json.dumps(scores, indent=1) + "\n")


def save_lines(lines: Iterable[Mapping[str, Any]], path: Path) -> None:
    """JSONL."""
    _write(path, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))


def _write(path: Path, text: str) -> None:
    """The file appears when it is complete."""
    aside = path.with_name(f".{path.name}.part")
    try:
        aside.write_text(text, encoding="utf-8")
        os.replace(aside, path)
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror})") from error
