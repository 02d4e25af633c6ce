"""Run a command that the kernel kills when its keeper ends.

    python -m ms_impl.launch.die_with_parent KEEPER_PID COMMAND…

msrun, told not to wait, starts the workers and ends; then the keeper, which adopts orphans, is their parent. A worker
waits for that, since the kernel's bond is to the parent of the moment. As the command replaces this process, it has the
same process id.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time

from ms_impl.launch.signals import STOP_SIGNALS

# The last bound process up the line: msrun, for a worker.
_STARTER = "BOUND_STARTER_PID"
_PR_SET_PDEATHSIG = 1  # <linux/prctl.h>


def is_bound() -> bool:
    """Whether this process has a keeper, who will kill it when that is wanted."""
    return _STARTER in os.environ


def prctl(option: int, value: int) -> None:
    """prctl(2) of this process. Raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, value, 0, 0, 0):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def main() -> None:
    keeper, *command = sys.argv[1:]
    starter = os.environ.get(_STARTER)
    while (parent := str(os.getppid())) != keeper and parent == starter:
        time.sleep(0.01)
    prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if str(os.getppid()) != keeper:  # it ended before the bond was made
        sys.exit(f"error: process {keeper}, which started this run, has ended")
    os.environ[_STARTER] = str(os.getpid())
    if os.environ.get("MS_ROLE") == "MS_SCHED":  # it is needed until the workers have ended, and ends with them
        for number in STOP_SIGNALS:
            signal.signal(number, signal.SIG_IGN)
    try:
        os.execvp(command[0], command)
    except OSError as error:
        sys.exit(f"error: {command[0]}: {error.strerror}")


if __name__ == "__main__":
    main()
