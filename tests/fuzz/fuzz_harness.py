"""Random cases, each in a child process: a case is right, or an InputError, within its time and memory; or a fault.

A surface is two functions: ``make(rng, folder)`` makes a case, ``run(case)`` returns if the answer is right and raises
``InputError`` if the input is refused. What else comes out is a fault: another exception, a wrong answer
(AssertionError), a hang, memory beyond the limit, the end of the process, files left half-written in ``folder``.

Every case has a seed of its own: ``pytest tests/fuzz -k SURFACE --fuzz-seed N --fuzz 1`` runs that case again.
"""

from __future__ import annotations

import faulthandler
import os
import resource
import shutil
import signal
import struct
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ms_impl.errors import InputError

Make = Callable[[np.random.Generator, Path], Any]
Run = Callable[[Any], None]

RIGHT, REFUSED, FAULT = b"R", b"I", b"F"
_STARTED = b"S"
_MESSAGE = struct.Struct("<cQI")  # what happened, seed, bytes of text that follow
LEFTOVERS = (".*.writing", "*.partial", "*.replaced", "*.tmp")
MESSAGE_LIMIT = 4000  # characters of an error; longer ones quote their input unbounded


@dataclass
class Outcome:
    """What came out of the cases of one surface. ``faults``: seed and report."""

    surface: str
    right: int = 0
    refused: int = 0
    faults: list[tuple[int, str]] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def cases(self) -> int:
        return self.right + self.refused + len(self.faults)


@dataclass(frozen=True)
class Limits:
    """What one case may take: seconds, and megabytes that the process may grow by."""

    seconds: float = 10
    megabytes: float = 1000


def fuzz(surface: str, make: Make, run: Run, cases: int, first_seed: int, limits: Limits) -> Outcome:
    """Run cases ``first_seed`` to ``first_seed + cases - 1``; a child that dies is followed by another."""
    outcome, seed, began = Outcome(surface), first_seed, time.monotonic()
    while seed < first_seed + cases:
        seed = _run_child(make, run, range(seed, first_seed + cases), limits, outcome)
    outcome.seconds = time.monotonic() - began
    return outcome


def _run_child(make: Make, run: Run, seeds: range, limits: Limits, outcome: Outcome) -> int:
    """Run cases in one child; returns the seed to go on with."""
    folder = Path(tempfile.mkdtemp(prefix="fuzz-"))
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read_end)
        _child(make, run, seeds, limits, folder, write_end)
    os.close(write_end)
    current = seeds[0]
    with open(read_end, "rb") as pipe:
        while header := pipe.read(_MESSAGE.size):
            kind, current, length = _MESSAGE.unpack(header)
            text = pipe.read(length).decode(errors="replace")
            if kind == RIGHT:
                outcome.right += 1
            elif kind == REFUSED:
                outcome.refused += 1
            elif kind == FAULT:
                outcome.faults.append((current, text))
            finished = kind != _STARTED
    _, status = os.waitpid(child, 0)
    shutil.rmtree(folder, ignore_errors=True)
    if finished:
        return current + 1
    ended = f"signal {os.WTERMSIG(status)}" if os.WIFSIGNALED(status) else f"exit status {os.WEXITSTATUS(status)}"
    hint = " (a hang)" if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGALRM else ""
    outcome.faults.append((current, f"the process ended: {ended}{hint}"))
    return current + 1


def _child(make: Make, run: Run, seeds: range, limits: Limits, folder: Path, pipe: int) -> None:
    """Run the cases, telling of each; never returns. The alarm's default action ends the process, in C code too."""
    try:
        faulthandler.disable()
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        quiet = os.open(os.devnull, os.O_WRONLY)
        os.dup2(quiet, 1)
        os.dup2(quiet, 2)
        sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)  # noqa: SIM115
        for seed in seeds:
            _tell(pipe, _STARTED, seed)
            kind, text = _case(make, run, seed, limits, folder)
            _tell(pipe, kind, seed, text)
            if kind == FAULT and "MB" in text:
                break  # the peak stays; a new process measures anew
    finally:
        os._exit(0)


def _case(make: Make, run: Run, seed: int, limits: Limits, folder: Path) -> tuple[bytes, str]:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    case = make(np.random.default_rng(seed), folder)
    before = _peak()
    signal.setitimer(signal.ITIMER_REAL, limits.seconds)
    try:
        run(case)
        kind, text = RIGHT, ""
    except InputError as error:
        kind, text = REFUSED, str(error)
        if len(text) > MESSAGE_LIMIT:
            kind, text = FAULT, f"a message of {len(text)} characters: {text[:200]}"
    except BaseException as error:
        kind, text = FAULT, "".join(traceback.format_exception(error, limit=-4))[-3000:]
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    if kind != FAULT and (grown := _peak() - before) > limits.megabytes:
        return FAULT, f"memory grew by {grown:,.0f} MB"
    left = [path.name for pattern in LEFTOVERS for path in folder.rglob(pattern)]
    if kind != FAULT and left:
        return FAULT, f"left behind: {', '.join(left)}"
    return kind, text


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _tell(pipe: int, kind: bytes, seed: int, text: str = "") -> None:
    content = text.encode(errors="replace")
    os.write(pipe, _MESSAGE.pack(kind, seed, len(content)) + content)


def table(outcomes: list[Outcome]) -> str:
    """One line a surface, and their sum."""
    width = max(len("surface"), *(len(outcome.surface) for outcome in outcomes))
    lines = [f"{'surface':<{width}}    cases    right  refused  faults  seconds"]
    for one in [*outcomes, _sum(outcomes)]:
        lines.append(
            f"{one.surface:<{width}}  {one.cases:>7,}  {one.right:>7,}  {one.refused:>7,}  {len(one.faults):>6,}"
            f"  {one.seconds:>7.1f}"
        )
    return "\n".join(lines)


def _sum(outcomes: list[Outcome]) -> Outcome:
    faults = [fault for outcome in outcomes for fault in outcome.faults]
    numbers = [(outcome.right, outcome.refused, outcome.seconds) for outcome in outcomes]
    right, refused, seconds = map(sum, zip(*numbers, strict=True))
    return Outcome("all", right, refused, faults, seconds)
