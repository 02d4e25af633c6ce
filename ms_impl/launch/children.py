"""The child processes of this one, those adopted among them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import IO

import psutil

from ms_impl.launch.die_with_parent import prctl

POLL_SECONDS = 0.1
_PR_SET_CHILD_SUBREAPER = 36  # <linux/prctl.h>


def adopt_orphans() -> None:
    """From now on a descendant whose parent ends becomes a child of this process."""
    prctl(_PR_SET_CHILD_SUBREAPER, 1)


def start_bound(
    command: Sequence[str], output: IO[bytes] | None = None, environment: Mapping[str, str] | None = None
) -> int:
    """Start a command that ends when this process does, and return its process id.

    It is out of reach of the terminal's Ctrl-C: what that means to it is for this process to say.
    """
    bound = [sys.executable, "-m", "ms_impl.launch.die_with_parent", str(os.getpid()), *command]
    process = subprocess.Popen(bound, stdout=output, stderr=output, env=environment, start_new_session=True)
    process.returncode = 0  # ended() waits for it; Popen is not to
    return process.pid


def all_of_them() -> list[psutil.Process]:
    """The children, those among them that have ended and have not been waited for."""
    return psutil.Process().children()


def wait_for(pid: int) -> int:
    """Wait until a child has ended. Returns its exit status, 128 + N if signal N killed it."""
    return _exit_status(os.waitpid(pid, 0)[1])


def ended() -> Iterator[tuple[int, int]]:
    """Process id and exit status of each child that has ended since the last call."""
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if not pid:
            return
        yield pid, _exit_status(status)


def kill_all() -> None:
    """Kill the children, and theirs as they are orphaned, and wait until there are none."""
    while left := all_of_them():
        for child in left:
            os.kill(child.pid, signal.SIGKILL)  # a child not yet waited for keeps its id, so this cannot hit another
        time.sleep(POLL_SECONDS / 10)
        for _ in ended():
            pass


def _exit_status(status: int) -> int:
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code
