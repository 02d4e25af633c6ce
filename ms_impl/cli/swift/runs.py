"""Directories as ms-swift's users know them: ``output/v0-20260101-120000/checkpoint-50``, with args.json in each.

A run's checkpoints are this project's (``checkpoint/step_00000050``, whole once they have their name); links beside
them have ms-swift's names, so that either can be given to infer, export and resume.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ms_impl.errors import InputError
from ms_impl.io.atomic_write import atomic_write
from ms_impl.io.json_files import read_json
from ms_impl.train import checkpoints

ARGUMENTS = "args.json"
SETTINGS = "swift.yaml"

_VERSION = re.compile(r"v(\d{1,9})-\d{8}-\d{6}")
_LINK = re.compile(r"checkpoint-(\d{1,15})")


def new_run(output: Path, add_version: bool) -> Path:
    """Make the directory of a run: the next version below ``output``, or ``output`` itself."""
    numbers = [int(match[1]) for path in output.glob("v*") if (match := _VERSION.fullmatch(path.name))]
    name = f"v{max(numbers, default=-1) + 1}-{time.strftime('%Y%m%d-%H%M%S')}"
    run = output / name if add_version else output
    try:
        run.mkdir(parents=True, exist_ok=not add_version)
    except OSError as error:
        raise InputError(f"--output_dir: {run} cannot be made ({error.strerror})") from error
    return run


def save_arguments(arguments: Mapping[str, Any], directory: Path) -> None:
    """Write args.json."""
    with atomic_write(directory / ARGUMENTS) as aside:
        aside.write_text(json.dumps(dict(arguments), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def name_checkpoints(run: Path) -> list[Path]:
    """Give a run's checkpoints ms-swift's names and args.json; returns them, oldest first."""
    links = []
    for old in run.glob("checkpoint-*"):
        if old.is_symlink() and not old.exists():  # one that has been removed since
            old.unlink()
    for folder in reversed(checkpoints.all_of(run / "checkpoint")):
        link = run / f"checkpoint-{int(folder.name.removeprefix('step_'))}"
        if not link.is_symlink():
            link.symlink_to(os.path.relpath(folder, run), target_is_directory=True)
        save_arguments(arguments_of(run), folder)
        links.append(link)
    return links


def checkpoint_directory(path: str | Path) -> Path:
    """The directory that a checkpoint's name means, also where the run has not named it yet.

    Raises InputError for one that is not there.
    """
    given = Path(path)
    match = _LINK.fullmatch(given.name)
    if not given.is_dir() and match:
        given = given.parent / "checkpoint" / checkpoints.folder_name(int(match[1]))
    if not given.is_dir():
        raise InputError(f"{path}: no such checkpoint")
    return given


def arguments_of(directory: str | Path) -> dict[str, Any]:
    """The args.json of a checkpoint, or of the run that it belongs to; nothing where there is none."""
    place = Path(directory).absolute()
    for folder in (place, *list(place.resolve().parents)[:2]):
        if (folder / ARGUMENTS).is_file():
            return read_json(folder / ARGUMENTS)
    return {}
