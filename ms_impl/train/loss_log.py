"""The record of a training run: one JSON line for each step. No framework is imported here."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ms_impl.errors import InputError, quote
from ms_impl.io.atomic_write import atomic_write
from ms_impl.io.json_files import parse_json


class LossLog:
    """Writes ``step`` (from 1), ``loss``, and whatever else a step knows, at once; null for what is not finite.

    Of a log that is there already it keeps the steps up to ``resumed_after``. Raises InputError where the file cannot
    be written.
    """

    def __init__(self, path: Path, resumed_after: int = 0):
        kept = [step for step in read_losses(path) if step["step"] <= resumed_after] if path.exists() else []
        self._path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with atomic_write(path) as aside:
                aside.write_text("".join(map(_line, kept)), encoding="utf-8")
            self._file = path.open("a", encoding="utf-8")
        except OSError as error:
            raise self._not_written(error) from error

    def write(self, **values: Any) -> None:
        try:
            self._file.write(_line(values))
            self._file.flush()
        except OSError as error:
            raise self._not_written(error) from error

    def close(self) -> None:
        self._file.close()

    def _not_written(self, error: OSError) -> InputError:
        return InputError(f"{self._path}: cannot be written ({error.strerror})")


def read_losses(path: str | Path) -> list[dict[str, Any]]:
    """The steps of a log. Raises InputError as ``read_records`` does."""
    return read_records(path, ("step", "loss"))


def read_records(path: str | Path, keys: Sequence[str]) -> list[dict[str, Any]]:
    """The records of a file of JSON lines. A last line without an end, as a killed run may leave it, is skipped.

    Raises InputError naming the file, or its line that is not a record with such ``keys``, or whose step is no number.
    """
    path = Path(path)
    try:
        *lines, _ = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read ({getattr(error, 'strerror', error)})") from error
    return [_record(line, keys, f"{path}: line {number}") for number, line in enumerate(lines, start=1)]


def _line(values: dict[str, Any]) -> str:
    finite = {key: None if isinstance(value, float) and not math.isfinite(value) else value
              for key, value in values.items()}  # fmt: skip
    return json.dumps(finite, allow_nan=False) + "\n"


def _record(line: str, keys: Sequence[str], source: str) -> dict[str, Any]:
    try:
        record = parse_json(line, source)
    except InputError as error:
        reason = str(error).removeprefix(f"{source}: ").removeprefix("line 1: ")
        raise InputError(
            f"{source}: {reason if reason.startswith('not JSON') else f'not a record ({reason})'}"
        ) from error
    if not set(keys) <= record.keys():
        raise InputError(f"{source}: not a record with {' and '.join(map(repr, keys))}")
    if "step" in keys and type(record["step"]) is not int:
        raise InputError(f"{source}: 'step' is {quote(record['step'])}, not a whole number")
    return record
