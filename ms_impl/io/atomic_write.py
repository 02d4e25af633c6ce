"""Output that appears under its name only when it is complete."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic_write(target: Path) -> Iterator[Path]:
    """A path beside ``target`` at which to write a file or a directory.

    When the block ends well, what was written is synced to disk and takes the place of ``target``. When it does not,
    it is removed and ``target`` stays as it was. What a killed run left behind is removed or put back first.
    """
    partial = target.with_name(f"{target.name}.partial")
    replaced = target.with_name(f"{target.name}.replaced")
    _recover(target, partial, replaced)
    try:
        yield partial
        _sync(partial)
        _take_place(partial, target, replaced)
    except BaseException:
        _remove(partial)
        raise


def _recover(target: Path, partial: Path, replaced: Path) -> None:
    _remove(partial)
    if replaced.exists() and not target.exists():
        os.rename(replaced, target)
    _remove(replaced)


def _take_place(partial: Path, target: Path, replaced: Path) -> None:
    if target.is_dir():  # a directory cannot be renamed onto a full one
        os.rename(target, replaced)
    os.replace(partial, target)
    _sync_one(target.parent)
    _remove(replaced)


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
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
