"""A log file shown while it is written."""

from __future__ import annotations

import sys
from pathlib import Path


class LogFollower:
    """Copies to standard output what was added to a file, each time ``show`` is called."""

    def __init__(self, path: Path):
        self._path = path
        self._shown = 0

    def show(self) -> None:
        try:
            with self._path.open("rb") as file:
                file.seek(self._shown)
                added = file.read()
        except FileNotFoundError:
            return
        self._shown += len(added)
        sys.stdout.buffer.write(added)
        sys.stdout.buffer.flush()


def last_lines(path: Path, count: int) -> str:
    """The end of a log, or nothing if there is none."""
    if not path.exists():
        return ""
    return "\n".join(path.read_text(encoding="utf-8", errors="replace").splitlines()[-count:])
