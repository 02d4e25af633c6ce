"""What is known of the records of a file, kept on disk, so that a file that was read before need not be again.

An index belongs to a file of records by its sha256, to a template by its fingerprint, and to the sources that made it.
Media files are looked at by size and time: records whose media have changed since are read anew.
"""

from __future__ import annotations

import hashlib
import logging
import os
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from ms_impl.data.encoded_records import DIGEST_BYTES, Entries
from ms_impl.data.template import Template
from ms_impl.io.atomic_write import atomic_write

logger = logging.getLogger(__name__)

CAPACITY = 4 << 30  # bytes that the indices of a directory may take; the one not used for longest gives way
_PACKAGE = Path(__file__).resolve().parents[1]
_LIBRARIES = ("numpy", "pillow", "tiktoken", "tokenizers", "av", "soundfile")  # whose versions may change a sample
_COLUMNS = ("whole", "tokens", "trained", "answers")
_ARRAYS = {
    **dict.fromkeys(_COLUMNS, np.int32), "digests": np.uint8, "media_ends": np.int64, "kinds": np.int8,
    "geometry_ends": np.int64, "geometry": np.int64, "file_ends": np.int64, "files": np.int32, "changes": np.int32,
    "states": np.int64,
}  # fmt: skip
_TEXTS = ("change_names", "paths")


def save(entries: Entries, path: Path) -> None:
    """Write entries. Raises OSError where they cannot be."""
    arrays = {name: getattr(entries, name) for name in _ARRAYS}
    texts = {name: np.frombuffer(_encoded(getattr(entries, name)), np.uint8) for name in _TEXTS}
    with atomic_write(path) as partial, open(partial, "wb") as file:
        np.savez(file, **arrays, **texts)
    _make_room(path)


def load(path: Path, records: int, kinds: int) -> Entries | None:
    """The entries in a file, of so many records, for a template of so many kinds; None: no whole ones."""
    try:
        with np.load(path, allow_pickle=False) as stored:
            arrays: dict[str, Any] = {name: stored[name] for name in _ARRAYS}
            texts = {name: _decoded(stored[name].tobytes()) for name in _TEXTS}
        entries = Entries(**{**arrays, **texts})
        if not _is_whole(entries, records, kinds):
            raise ValueError("its arrays do not fit each other")
        os.utime(path)
    except FileNotFoundError:
        return None
    except Exception as error:  # numpy and zipfile raise many kinds for one cause: the file is damaged
        logger.warning("%s cannot be used (%s); the records are read anew", path, str(error)[:200])
        return None
    return entries


def index_name(sha256: str, records: int, template: Template) -> str:
    """The name of the index of a file's first records, as a template encodes them."""
    parts = [sha256, str(records), template.fingerprint(), *_versions(), _sources(template)]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:40] + ".npz"


def _is_whole(entries: Entries, records: int, kinds: int) -> bool:
    """Whether arrays have the types and lengths of each other, and what points into one stays within it."""
    if any(getattr(entries, name).dtype != dtype for name, dtype in _ARRAYS.items()):
        return False
    rows = [getattr(entries, name).shape for name in (*_COLUMNS, "media_ends", "file_ends")]
    media, paths = len(entries.kinds), len(entries.paths)
    return (
        rows == [(records,)] * len(rows)
        and entries.digests.shape == (records, DIGEST_BYTES)
        and entries.states.shape == (paths, 2)
        and entries.changes.ndim == 2 and entries.changes.shape[1] == 3
        and _end_with(entries.media_ends, media)
        and entries.geometry_ends.shape == (media,) and _end_with(entries.geometry_ends, len(entries.geometry))
        and _end_with(entries.file_ends, len(entries.files))
        and _all_below(entries.kinds, kinds) and _all_below(entries.files, paths)
        and _all_below(entries.changes[:, 0], records) and _all_below(entries.changes[:, 1], len(entries.change_names))
    )  # fmt: skip


def _end_with(ends: np.ndarray, length: int) -> bool:
    steps = np.diff(np.concatenate([[0], ends, [length]]))
    return bool((steps >= 0).all()) and steps[-1] == 0


def _all_below(numbers: np.ndarray, limit: int) -> bool:
    return bool(((numbers >= 0) & (numbers < limit)).all())


def _encoded(texts: Sequence[str]) -> bytes:
    return "\0".join([*texts, ""]).encode("utf-8", "surrogateescape")  # no path has a NUL


def _decoded(data: bytes) -> list[str]:
    return data.decode("utf-8", "surrogateescape").split("\0")[:-1]


def _versions() -> list[str]:
    installed = []
    for name in _LIBRARIES:
        try:
            installed.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            installed.append(f"{name} none")
    return installed


def _sources(template: Template) -> str:
    """sha256 of the code that makes samples: this room and the media's, and where the template's classes are."""
    files = {*(_PACKAGE / "data").glob("*.py"), *(_PACKAGE / "media").glob("*.py")}
    for each in type(template).__mro__:
        source = getattr(sys.modules[each.__module__], "__file__", None)
        if source and each is not object:
            path = Path(source).resolve()
            files |= set(path.parent.glob("*.py")) if path.is_relative_to(_PACKAGE) else {path}
    made = hashlib.sha256()
    for path in sorted(files):
        made.update(path.name.encode() + b"\0" + path.read_bytes())
    return made.hexdigest()


def _make_room(kept: Path) -> None:
    """Remove the indices that were not used for longest, until the others take no more than ``CAPACITY``."""
    found = []
    for path in kept.parent.glob("*.npz"):
        try:
            found.append((path.stat().st_mtime, path.stat().st_size, path))
        except OSError:
            continue  # another process removed it
    room = CAPACITY
    for _, size, path in sorted(found, reverse=True):
        room -= size
        if room < 0 and path != kept:
            path.unlink(missing_ok=True)
            path.with_suffix(".lock").unlink(missing_ok=True)
