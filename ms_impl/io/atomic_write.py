"""Output that appears under its name only when it is complete.

While it is written it lies in a hidden directory of its own beside the target, ``.NAME.RANDOM.writing``, with a lock
that tells whether its process lives. Nothing else is ever removed, so that no file of the user's can be in the way.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ms_impl.io.file_lock import FileLock, is_held

_SUFFIX = ".writing"
_LOCK, _NEW, _OLD = "lock", "new", "old"  # all that such a directory may hold; the lock names the target
_NAME_SHOWN = 60  # characters

_own: set[Path] = set()  # directories of this process, whose locks it must not try


@contextmanager
def atomic_write(target: Path) -> Iterator[Path]:
    """A path at which to write a file or a directory.

    When the block ends well, what was written is synced to disk and takes the place of ``target``. When it does not,
    it is removed and ``target`` stays as it was. What killed processes left in the directory is removed or put back
    first.
    """
    recover(target.parent)
    room = Path(tempfile.mkdtemp(_SUFFIX, f".{target.name[:_NAME_SHOWN]}.", target.parent))
    _own.add(room)
    try:
        with _locked(room, target.name):
            yield room / _NEW
            _sync(room / _NEW)
            _take_place(room, target)
    finally:
        _remove(room)
        _own.discard(room)


def recover(directory: Path) -> None:
    """Remove what processes that are no more were writing; put back what they had moved away."""
    if not directory.is_dir():
        return
    for name in os.listdir(directory):
        room = directory / name
        try:
            if name.endswith(_SUFFIX) and room not in _own and _is_room(room) and not is_held(room / _LOCK):
                _tidy(room)
        except FileNotFoundError:  # its process, or another that tidies up, has just removed it
            continue


def _tidy(room: Path) -> None:
    target = room.parent / Path((room / _LOCK).read_text(encoding="utf-8", errors="surrogateescape")).name
    if (room / _OLD).exists() and not target.exists():
        os.rename(room / _OLD, target)
    _remove(room)


@contextmanager
def _locked(room: Path, name: str) -> Iterator[None]:
    lock = FileLock(room / "locking", name)
    lock.acquire()
    os.rename(lock.path, room / _LOCK)  # it has this name only when it is held
    try:
        yield
    finally:
        for name in (_NEW, _OLD):
            _remove(room / name)
        lock.release()


def _is_room(path: Path) -> bool:
    if path.is_symlink() or not path.is_dir():
        return False
    names = set(os.listdir(path))
    return _LOCK in names and names <= {_LOCK, _NEW, _OLD}


def _take_place(room: Path, target: Path) -> None:
    moved = target.is_dir() and not target.is_symlink()  # a directory cannot be renamed onto a full one
    if moved:
        os.rename(target, room / _OLD)
    try:
        os.replace(room / _NEW, target)
    except OSError:
        if moved:
            os.rename(room / _OLD, target)
        raise
    _sync_one(target.parent)


def _sync(path: Path) -> None:
    if path.is_dir():
        for file in path.iterdir():
            _sync_one(file)
    _sync_one(path)


def _sync_one(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove(path: Path) -> None:
    """Remove a directory of this module, or what it holds; what cannot be removed stays and does no harm."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
