"""The user's cache of what is made on this machine: compiled kernels and graphs, which are run as they are found."""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path

NAME = "vlm_mindspore"


def cache_folder(part: str = "") -> Path:
    """The directory ``part`` of the user's cache, made where it does not exist, for this user alone.

    It stands in $XDG_CACHE_HOME or ~/.cache; without a home, in the directory for temporary files.

    Raises:
        OSError: it cannot be made, or others could put files into it.
    """
    folder = _root()
    for name in ("", *filter(None, [part])):
        folder = folder / name
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir(mode=0o700, exist_ok=True)
        check_own(folder)
    return folder


def check_own(path: Path) -> None:
    """Raise PermissionError unless ``path`` is this user's, and none but him and his group may write to it."""
    status = path.stat()
    mode = stat.S_IMODE(status.st_mode)
    if status.st_uid != os.geteuid():
        raise PermissionError(f"{path} is another user's (uid {status.st_uid}); give a directory in XDG_CACHE_HOME")
    if mode & stat.S_IWOTH or mode & stat.S_IWGRP and status.st_gid != os.getegid():
        raise PermissionError(f"others may write to {path} (mode {mode:o}); run chmod go-w on it")


def _root() -> Path:
    home = os.environ.get("HOME")
    for base in (os.environ.get("XDG_CACHE_HOME"), home and os.path.join(home, ".cache")):
        if base and os.path.isabs(base):
            return Path(base, NAME)
    return Path(tempfile.gettempdir(), f"{NAME}-{os.geteuid()}")
