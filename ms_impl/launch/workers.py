"""Have msrun start workers, and stay with them: ``python -m ms_impl.launch.workers LOG_DIR RANK msrun …``.

scripts/msrun_launcher.sh calls this. msrun only starts the workers (``--join=False``): its own way of waiting returns
0 on Ctrl-C, leaves workers running on SIGTERM, and after a failure lasts as long as MS_NODE_TIMEOUT. RANK is the worker
whose log is shown.

The exit status is 0 if all workers ended with 0, whether their work was done or they stopped when asked to. Otherwise
it is that of the first that failed (128 + N if signal N killed it); or 128 + N if signal N asked for the end, and a
worker failed then or had to be killed.
"""

from __future__ import annotations

import math
import os
import signal
import sys
import time
from pathlib import Path

import psutil

from ms_impl.cli.main import command
from ms_impl.errors import InputError
from ms_impl.launch import children
from ms_impl.launch.die_with_parent import is_bound
from ms_impl.launch.log import LogFollower, last_lines
from ms_impl.launch.signals import StopSignals

_LINES_OF_A_FAILURE = 20
_NOT_TOGETHER = "Failed to initialize distributed job cluster"  # MindSpore 2.9.0, after CLUSTER_TIME_OUT


def stop_seconds() -> int:
    """How long workers that were asked to stop may take to write a checkpoint and leave: STOP_TIME_OUT, or 30 s."""
    text = os.environ.get("STOP_TIME_OUT") or "30"
    if not text.isdecimal():
        raise InputError(f"STOP_TIME_OUT is {text!r}, not a number of seconds")
    return int(text)


class Workers:
    """The scheduler and the workers of this machine, from their start to their end."""

    def __init__(self, log_dir: Path, shown_rank: int):
        self._log_dir = log_dir
        self._shown = LogFollower(log_dir / f"worker_{shown_rank}.log")
        self._signals = StopSignals()
        self._stop_seconds = stop_seconds()
        self._deadline = math.inf
        self._names: dict[int, str] = {}  # of the processes that must end with 0

    def run(self, command: list[str]) -> int:
        """Have msrun start them, and wait until all have ended, or one failed, or they had to be killed.

        Returns the exit status.
        """
        children.adopt_orphans()
        try:
            return self._start(command) or self._wait()
        finally:
            children.kill_all()

    def _start(self, command: list[str]) -> int:
        status = children.wait_for(children.start_bound(command))
        if status:
            print(f"error: msrun ended with status {status}", file=sys.stderr)
        self._names = {child.pid: _name(child) for child in children.all_of_them()}
        return status

    def _wait(self) -> int:
        while self._names:
            for pid, status in children.ended():
                name = self._names.pop(pid, None)
                if name and status:  # without a name it was an orphan of a worker
                    self._report(name, status)
                    return 128 + self._signals.last if self._signals.count else status
            if self._signals.count and self._deadline == math.inf:
                self._ask_to_stop()
            if self._asks > 1 or time.monotonic() > self._deadline:
                print("error: the workers did not stop by themselves and were killed", file=sys.stderr)
                return 128 + self._signals.last
            self._shown.show()
            time.sleep(children.POLL_SECONDS)
        self._shown.show()
        return 0

    @property
    def _asks(self) -> int:
        """How often the user asked for the end. A bound launcher may get the same signal from its keeper, too."""
        return min(self._signals.count, 1) if is_bound() else self._signals.count

    def _ask_to_stop(self) -> None:
        self._deadline = time.monotonic() + self._stop_seconds
        print(f"The workers have {self._stop_seconds} s to stop; ask again to kill them.", file=sys.stderr)
        for pid in self._names:
            os.kill(pid, self._signals.last)  # it has not been waited for, so the process id is still its own

    def _report(self, name: str, status: int) -> None:
        self._shown.show()
        log = self._log_dir / f"{name}.log"
        if end := last_lines(log, _LINES_OF_A_FAILURE):
            print(f"The end of {log}:\n{end}", file=sys.stderr)
        if _NOT_TOGETHER in end:
            print(
                "error: not all workers came in time; start the launcher on every node, with the same WORKER_NUM, "
                "MASTER_ADDR, MASTER_PORT, and each NODE_RANK once",
                file=sys.stderr,
            )
        how = f"was killed by {signal.Signals(status - 128).name}" if status > 128 else f"ended with status {status}"
        print(f"error: {name} {how}; the logs are in {self._log_dir}", file=sys.stderr)


def _name(process: psutil.Process) -> str:
    """As msrun names the log: ``scheduler``, ``worker_0``, …"""
    try:
        environment = process.environ()
    except psutil.Error:
        return f"process {process.pid}"
    return "scheduler" if environment.get("MS_ROLE") == "MS_SCHED" else f"worker_{environment.get('RANK_ID')}"


@command
def main() -> int:
    log_dir, rank, *task = sys.argv[1:]
    return Workers(Path(log_dir), int(rank)).run(task)


if __name__ == "__main__":
    sys.exit(main())
