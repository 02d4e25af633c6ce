"""The record of a training run: one JSON line for each step. No framework is imported here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ms_impl.errors import InputError


class LossLog:
    """Writes ``step`` (from 1), ``loss``, and whatever else a step knows, at once.

    Of a log that is there already it keeps the steps up to ``resumed_after``.
    """

    def __init__(self, path: Path, resumed_after: int = 0):
        kept = [step for step in read_losses(path) if step["step"] <= resumed_after] if path.exists() else []
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("w", encoding="utf-8")
        for step in kept:
            self.write(**step)

    def write(self, **values: Any) -> None:
        self._file.write(json.dumps(values) + "\n")
        self._file.flush()

    def close(self) -> None:
        self._file.close()


def read_losses(path: str | Path) -> list[dict[str, Any]]:
    """The steps of a log. Raises InputError naming the line that is not one."""
    path = Path(path)
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    return [_step(line, f"{path}: line {number}") for number, line in enumerate(lines, start=1)]


def _step(line: str, source: str) -> dict[str, Any]:
    try:
        step = json.loads(line)
    except json.JSONDecodeError as error:
        raise InputError(f"{source}: not JSON ({error.msg})") from error
    if not isinstance(step, dict) or not {"step", "loss"} <= step.keys():
        raise InputError(f"{source}: not a step of a loss log, which has 'step' and 'loss'")
    return step
