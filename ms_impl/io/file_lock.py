"""Locks between processes that end with the process that holds them, however it ends.

They are POSIX record locks (fcntl), which a child process does not inherit, so that no leftover holds one, and which
shared file systems know. A process loses its lock when it closes any descriptor of the file: do not open it elsewhere.
"""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path

_TAKEN = (errno.EACCES, errno.EAGAIN)


class FileLock:
    """The lock of one file, which stays when it is released.

    ``text`` is written into the file for others to read. Where the file system knows no locks, every one is given.
    """

    def __init__(self, path: Path, text: str = ""):
        self.path = path
        self._text = text
        self._descriptor: int | None = None

    def acquire(self) -> bool:
        """Take the lock; returns whether it was free. Raises OSError where the file cannot be opened."""
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in _TAKEN:
                os.close(descriptor)
                return False
        self._descriptor = descriptor
        if self._text:
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, self._text.encode("utf-8", "surrogateescape"), 0)
        return True

    def release(self) -> None:
        """Give the lock back."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def is_held(path: Path) -> bool:
    """Whether another process holds the lock of a file, or it cannot be told. This process must not hold it."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(descriptor)
    return False
