"""The checkpoints of a training run: one folder each, whole once it has its name. No framework is imported here."""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import re
import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from ms_impl.errors import InputError, quote
from ms_impl.io.atomic_write import atomic_write
from ms_impl.io.json_files import read_json

logger = logging.getLogger(__name__)

STATE, MANIFEST = "state.json", "manifest.json"
_NAME = re.compile(r"step_(\d{8,15})")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_LONGEST_NAME = 255  # bytes

# Writes its files into the folder it is given.
Writer = Callable[[Path], Any]


def folder_name(step: int) -> str:
    """The name of the checkpoint after ``step`` steps."""
    return f"step_{step:08d}"


def save(root: Path, step: int, writers: Iterable[Writer], state: Mapping[str, Any], keep: int) -> Path:
    """Write a checkpoint of what ``writers`` write and of ``state``, then remove all but the ``keep`` newest up to it.

    It is written aside, synced, and renamed when whole; ``manifest.json`` has every file's sha256.

    Raises InputError when it cannot be written (the disk is full): what was there before is still there.
    """
    folder = root / folder_name(step)
    try:
        root.mkdir(parents=True, exist_ok=True)
        with atomic_write(folder) as partial:
            partial.mkdir()
            for write in writers:
                write(partial)
            (partial / STATE).write_text(json.dumps({"step": step, **state}, indent=2) + "\n", encoding="utf-8")
            _write_manifest(partial)
    except OSError as error:
        reason = "no space is left on the disk" if error.errno == errno.ENOSPC else error.strerror
        kept = newest(root) or "none"
        raise InputError(f"{folder}: cannot be written ({reason}); the checkpoint to resume from: {kept}") from error
    _rotate(root, step, keep)
    return folder


def all_of(root: Path) -> list[Path]:
    """The checkpoints in a folder, the newest first. Whether they are whole is not looked into."""
    found = [path for path in root.glob("step_*") if _NAME.fullmatch(path.name) and path.is_dir()]
    return sorted(found, key=_step_of, reverse=True)


def newest(root: Path) -> Path | None:
    """The newest whole checkpoint in a folder, or None. Each that is damaged is named in a warning."""
    for folder in all_of(root):
        try:
            verify(folder)
        except InputError as error:
            logger.warning("%s; it is skipped", error)
        else:
            return folder
    return None


def verify(folder: Path) -> None:
    """Raise InputError naming the first file that is missing or whose checksum is not that of the manifest.

    The manifest must name the state and every file of weights that is there; what else was put beside them may stay.
    """
    sums = _read_manifest(folder)
    for name, wanted in sums.items():
        file = folder / name
        if not file.is_file():
            raise InputError(f"{file}: not found; the checkpoint is damaged")
        if _sha256(file) != wanted:
            raise InputError(f"{file}: its checksum is not the manifest's; the checkpoint is damaged")
    step, named = read_state(folder).get("step"), _NAME.fullmatch(folder.name)
    if type(step) is not int or not 0 < step < 10**15 or (named and step != int(named[1])):
        raise InputError(f"{folder / STATE}: its step is {quote(step)}; the checkpoint is damaged")


def _read_manifest(folder: Path) -> dict[str, str]:
    """The sha256 of each file by its name."""
    path = folder / MANIFEST
    sums = _read_json(path)
    for name, wanted in sums.items():
        if name != Path(name).name or "\0" in name or len(name.encode()) > _LONGEST_NAME:
            raise InputError(f"{path}: {quote(name)} is not a file name; the checkpoint is damaged")
        if not isinstance(wanted, str) or not _SHA256.fullmatch(wanted):
            raise InputError(f"{path}: {quote(wanted)} is not a checksum; the checkpoint is damaged")
    for name in (STATE, *sorted(file.name for file in folder.glob("*.safetensors"))):
        if name not in sums:
            raise InputError(f"{path}: does not list {name}; the checkpoint is damaged")
    return sums


def read_state(folder: Path) -> dict[str, Any]:
    """The ``state`` that the checkpoint was saved with, and its ``step``."""
    return _read_json(folder / STATE)


def _step_of(folder: Path) -> int:
    return int(_NAME.fullmatch(folder.name)[1])


def _rotate(root: Path, step: int, keep: int) -> None:
    """Later checkpoints, which a run ignores that resumes from an earlier one, are neither removed nor counted."""
    for folder in [folder for folder in all_of(root) if _step_of(folder) <= step][keep:]:
        (folder / MANIFEST).unlink(missing_ok=True)  # first: a half-removed checkpoint must not look whole
        shutil.rmtree(folder)


def _write_manifest(folder: Path) -> None:
    sums = {file.name: _sha256(file) for file in sorted(folder.iterdir())}
    (folder / MANIFEST).write_text(json.dumps(sums, indent=2) + "\n", encoding="utf-8")


def _sha256(file: Path) -> str:
    try:
        with file.open("rb") as opened:
            return hashlib.file_digest(opened, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"{file}: cannot be read ({error.strerror}); the checkpoint is damaged") from error


def _read_json(file: Path) -> dict[str, Any]:
    try:
        return read_json(file)
    except InputError as error:
        raise InputError(f"{error}; the checkpoint is damaged") from error
