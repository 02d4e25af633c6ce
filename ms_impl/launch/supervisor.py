"""A training run that is started again when it fails, until it says in a file that it is complete."""

from __future__ import annotations

import math
import os
import re
import shlex
import signal
import socket
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from ms_impl.errors import InputError
from ms_impl.launch import children
from ms_impl.launch.log import LogFollower
from ms_impl.launch.run_lock import lock_run
from ms_impl.launch.signals import StopSignals
from ms_impl.launch.workers import stop_seconds
from ms_impl.resources import resource

LAUNCHER = resource("scripts/msrun_launcher.sh")
USER_ERROR = 2  # the exit status of run_mindformer.py, and of the launcher, that another attempt cannot mend
_ATTEMPTS_WITHOUT_PROGRESS = 2
_LAUNCHER_SECONDS = 10  # for the launcher to end its workers, after they had their time


@dataclass(frozen=True)
class Nodes:
    """Where the workers are, as scripts/msrun_launcher.sh takes it. One worker is one process without msrun.

    Attempt k uses the port ``master_port + k - 1``, so that all nodes agree; None takes any that is free.
    """

    workers: int = 1
    local_workers: int | None = None
    master_addr: str = "127.0.0.1"
    master_port: int | None = None
    node_rank: int = 0
    cluster_time_out: int = 600

    def __post_init__(self):
        if self.several and self.master_port is None:
            raise InputError("--master_port: several nodes must agree on one; give it")

    @property
    def several(self) -> bool:
        return (self.local_workers or self.workers) < self.workers

    def command(self, task: str, attempt: int, logs: Path) -> list[str]:
        """What starts the task."""
        if self.workers == 1:
            return [sys.executable, *shlex.split(task)]
        port = _free_port() if self.master_port is None else self.master_port + attempt - 1
        where = [self.workers, self.local_workers or self.workers, self.master_addr, port, self.node_rank]
        return ["bash", str(LAUNCHER), task, *map(str, [*where, logs, True, self.cluster_time_out])]


@dataclass(frozen=True)
class Patience:
    """``max_restarts``; seconds of ``pause`` before each; seconds without a step after which a run counts as hung."""

    max_restarts: int = 3
    pause: float = 10
    stall_timeout: float = math.inf


class Supervisor:
    """Runs a training task in ``output`` until ``completed.json`` is there. Its process must have no other children.

    Args:
        task: run_mindformer.py and its arguments, as one writes them in a shell.
        output: the task's output_dir.
        resume: whether the task resumes from checkpoints that are there already.
    """

    def __init__(self, task: str, output: Path, resume: bool, nodes: Nodes, patience: Patience):
        if not resume and (step := newest_step(output)) is not None:
            raise InputError(
                f"{output}: an earlier run saved step {step} here; give --resume_training True to resume it, or "
                "another --output_dir"
            )
        self._task, self._output, self._nodes, self._patience = task, output, nodes, patience
        self._stop_seconds = stop_seconds()
        self._completed = output / "completed.json"
        self._logs = output / "msrun_log" / (f"node_{nodes.node_rank}" if nodes.several else "")

    def run(self) -> int:
        """Returns the exit status.

        0: complete, or stopped by a signal after saving; 1: gave up; 2: an error of the user's; 128 + N: stopped by
        signal N without saving.
        """
        if self._nodes.node_rank == 0:
            lock_run(self._output, for_children=True)
        children.adopt_orphans()
        self._signals = StopSignals()
        self._completed.unlink(missing_ok=True)  # of an earlier run
        task, without_progress = self._task, 0
        for attempt in range(1, self._patience.max_restarts + 2):
            before = newest_step(self._output)
            status = self._try(task, attempt)
            if (final := self._final_status(status)) is not None:
                return final
            without_progress = without_progress + 1 if newest_step(self._output) == before else 0
            if without_progress == _ATTEMPTS_WITHOUT_PROGRESS:
                return self._give_up(f"{without_progress} attempts in succession saved nothing new")
            if attempt <= self._patience.max_restarts:
                self._pause()
            if self._signals.count:
                return 128 + self._signals.last
            task = f"{self._task} --resume_training True"
        return self._give_up(f"that was the last of {attempt} attempts")

    def _try(self, task: str, attempt: int) -> int:
        """One attempt. Returns its exit status."""
        logs = _next_folder(self._logs)
        command = self._nodes.command(task, attempt, logs)
        began = time.monotonic()
        _say(f"attempt {attempt} of at most {self._patience.max_restarts + 1}; logs in {logs}")
        with (logs / "output.log").open("wb") as output:
            pid = children.start_bound(command, output)
        try:
            status = self._watch(pid, LogFollower(logs / "output.log"))
        finally:
            children.kill_all()
        saved = newest_step(self._output)
        _say(
            f"attempt {attempt} {'completed the run' if self._completed.exists() else f'ended with status {status}'} "
            f"after {time.monotonic() - began:.0f} s; newest checkpoint: {'none' if saved is None else f'step {saved}'}"
        )
        return status

    def _watch(self, pid: int, log: LogFollower) -> int:
        pulse, deadline = _Pulse(self._output / "losses/rank_0.jsonl"), math.inf
        while True:
            ended = dict(children.ended())
            log.show()
            if pid in ended:
                return ended[pid]
            if self._signals.count and deadline == math.inf:
                deadline = time.monotonic() + self._stop_seconds + _LAUNCHER_SECONDS
                os.kill(pid, self._signals.last)
            if self._signals.count > 1 or time.monotonic() > deadline:
                return 128 + signal.SIGKILL
            if pulse.seconds_since() > self._patience.stall_timeout:
                _say(f"no step for {self._patience.stall_timeout:g} s: the run hangs and is killed")
                return 128 + signal.SIGKILL
            time.sleep(children.POLL_SECONDS)

    def _final_status(self, status: int) -> int | None:
        """The status to end with, or None if another attempt is due."""
        if self._completed.exists():
            return 0
        if self._signals.count:
            return 128 + self._signals.last if status else 0
        if status == USER_ERROR:
            return self._give_up("another attempt would meet the same error", USER_ERROR)
        return None

    def _pause(self) -> None:
        end = time.monotonic() + self._patience.pause
        while time.monotonic() < end and not self._signals.count:
            time.sleep(children.POLL_SECONDS)

    def _give_up(self, reason: str, status: int = 1) -> int:
        print(f"error: the run is not complete: {reason}; see {self._logs}", file=sys.stderr)
        return status


class _Pulse:
    """When a file last grew."""

    def __init__(self, path: Path):
        self._path = path
        self._size = self._measure()
        self._changed = time.monotonic()

    def seconds_since(self) -> float:
        if (size := self._measure()) != self._size:
            self._size, self._changed = size, time.monotonic()
        return time.monotonic() - self._changed

    def _measure(self) -> int:
        return self._path.stat().st_size if self._path.exists() else 0


def newest_step(output: Path) -> int | None:
    """The step of the newest whole checkpoint of a run, None if there is none."""
    names = (re.fullmatch(r"step_(\d{8,15})", folder.name) for folder in (output / "checkpoint").glob("step_*"))
    return max((int(name[1]) for name in names if name), default=None)


def _next_folder(logs: Path) -> Path:
    """Make and return attempt_N, one after the last that is there."""
    logs.mkdir(parents=True, exist_ok=True)
    last = max((int(folder.name.rpartition("_")[2]) for folder in logs.glob("attempt_*")), default=0)
    folder = logs / f"attempt_{last + 1}"
    folder.mkdir()
    return folder


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _say(text: str) -> None:
    print(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}", flush=True)
