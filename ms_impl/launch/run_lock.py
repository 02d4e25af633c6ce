"""One run at a time in an output directory.

The first rank holds the lock, or, for all attempts and the pauses between them, the supervisor of the first node, which
tells its processes so in their environment.
"""

from __future__ import annotations

import json
import os
import socket
import time
from pathlib import Path

from ms_impl.errors import InputError, quote
from ms_impl.io.file_lock import FileLock
from ms_impl.io.json_files import read_json

_HOLDER = "RUN_LOCK_HOLDER"  # the file that an ancestor of this process holds the lock of, and its text

_held: list[FileLock] = []  # until the process ends


def lock_run(output: Path, kind: str = "train", for_children: bool = False) -> None:
    """Take the lock of an output directory, which is made if it is not there, until this process ends.

    Args:
        kind: runs of different kinds do not disturb one another.
        for_children: let processes that are started from here pass.

    Raises:
        InputError: another run holds it (the message names that), or the directory cannot be written to.
    """
    path = Path(os.path.abspath(output)) / f".{kind}.lock"
    about = {"host": socket.gethostname(), "pid": os.getpid(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}
    text = json.dumps(about)
    lock = FileLock(path, text + "\n")
    try:
        output.mkdir(parents=True, exist_ok=True)
        free = lock.acquire()
    except (OSError, ValueError) as error:
        raise InputError(f"{output}: cannot be written to ({getattr(error, 'strerror', error)})") from error
    if not free and os.environ.get(_HOLDER) != f"{path}: {_read(path)}":
        raise InputError(
            f"{output}: another run writes there ({_named(path)}); wait for its end, or name another --output_dir"
        )
    if free:
        _held.append(lock)
        if for_children:
            os.environ[_HOLDER] = f"{path}: {text}"


def _named(path: Path) -> str:
    try:
        about = read_json(path)
    except InputError:
        return "it has not said which"
    host, pid, since = (quote(about.get(key)).strip("'") for key in ("host", "pid", "since"))
    return f"process {pid} on {host}, since {since}"


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError:
        return ""
