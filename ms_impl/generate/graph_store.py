"""A folder of compiled graphs under their fingerprints. Several processes may share it, and any may be killed."""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path

LIMIT = 1 << 30  # bytes; beyond, what was unused for longest goes
SHARE = 4  # a graph may take one in so many of them: that of a training step must not push out all others
_SEAL = hashlib.sha256().digest_size


class GraphStore:
    """Each graph is a file, sealed with a digest of its key and content: what is damaged or misplaced is not there.

    Args:
        folder: made when the first graph is written.
        limit: bytes that all graphs may take; one that would take more than a quarter of them is not kept.
    """

    def __init__(self, folder: Path, limit: int = LIMIT):
        self.folder = folder
        self.limit = limit

    def read(self, key: str) -> bytes | None:
        """The graph of that key; None where there is none, or no whole one."""
        path = self._path(key)
        try:
            sealed = path.read_bytes()
            os.utime(path)
        except OSError:
            return None
        graph = sealed[_SEAL:]
        return graph if sealed[:_SEAL] == _seal(key, graph) else None

    def write(self, key: str, graph: bytes) -> None:
        """Keep a graph that is not too large; it appears whole or not at all.

        Raises:
            OSError: the folder cannot be written.
        """
        if len(graph) > self.limit // SHARE:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        descriptor, partial = tempfile.mkstemp(".partial", dir=self.folder)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(_seal(key, graph) + graph)
            os.replace(partial, self._path(key))
        except BaseException:
            Path(partial).unlink(missing_ok=True)
            raise
        self._prune()

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}.graph"

    def _prune(self) -> None:
        """Keep to the limit, also with what killed processes left half written."""
        found = [(entry.stat(), entry.path) for entry in os.scandir(self.folder)]
        room = self.limit
        for status, path in sorted(found, key=lambda item: item[0].st_mtime, reverse=True):
            room -= status.st_size
            if room < 0:
                Path(path).unlink(missing_ok=True)


def _seal(key: str, graph: bytes) -> bytes:
    return hashlib.sha256(key.encode() + b"\0" + graph).digest()
