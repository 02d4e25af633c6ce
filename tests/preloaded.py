"""Our commands without their imports: a Python that has loaded the frameworks is forked for each.

The imports of MindFormers' command line take longer than a training run of the tests. What is forked has loaded what
neither knows a setting nor starts a thread; this project and MindFormers itself are imported by each command. Tests of
msrun, of signals and of the imports themselves start processes of their own.
"""

from __future__ import annotations

import contextlib
import json
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Mapping
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

LOADED = ("mindspore", "torch", "nltk", "transformers", "tensorboardX")  # in the order of MindFormers
TIME_OUT = 300  # seconds


def run_script(
    script: Path, *arguments: Any, folder: Path | None = None, environment: Mapping[str, str] | None = None,
    typed: str = "",
) -> subprocess.CompletedProcess[str]:  # fmt: skip
    """As ``subprocess.run`` of Python with a script; its output is captured, its input is what is ``typed``."""
    command = [str(script), *map(str, arguments)]
    with tempfile.TemporaryDirectory() as written:
        streams = [Path(written, name) for name in ("stdin", "stdout", "stderr")]
        streams[0].write_text(typed)
        task = {
            "command": command, "folder": str(folder or Path.cwd()), "streams": list(map(str, streams)),
            "environment": own_environment() if environment is None else dict(environment),
        }  # fmt: skip
        server = _server()
        server.stdin.write(json.dumps(task) + "\n")
        server.stdin.flush()
        status = int(server.stdout.readline())
        return subprocess.CompletedProcess(command, status, *(stream.read_text() for stream in streams[1:]))


def own_environment() -> dict[str, str]:
    """Of a command that a test runs: MindFormers writes where the command has it, not where the tests do."""
    environment = {"OMP_NUM_THREADS": "2", **os.environ, "GLOG_v": "3"}
    for name in ("LOG_MF_PATH", "OM_MODULES_CACHE"):
        environment.pop(name, None)
    return environment


@cache
def _server() -> subprocess.Popen:
    """The Python that is forked. It ends with this process, whose end of the pipe it reads."""
    environment = {**own_environment(), "OPENBLAS_NUM_THREADS": "1"}  # numpy would start threads when it is imported
    command = [sys.executable, __file__]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)


def serve() -> None:
    """Fork for each line of standard input; in the child, become the command."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in LOADED:
            with contextlib.suppress(ImportError):
                import_module(name)
    assert len(os.listdir("/proc/self/task")) == 1, "a process with threads cannot be forked"
    for line in sys.stdin:
        task = json.loads(line)
        if (child := os.fork()) == 0:
            return become(**task)
        print(_status(child), flush=True)


def _status(child: int) -> int:
    """As ``subprocess`` has it; the child is killed after TIME_OUT."""
    signal.signal(signal.SIGALRM, lambda *_: os.kill(child, signal.SIGKILL))
    signal.alarm(TIME_OUT)
    _, status = os.waitpid(child, 0)
    signal.alarm(0)
    return os.waitstatus_to_exitcode(status)


def become(command: list[str], folder: str, environment: dict[str, str], streams: list[str]) -> None:
    """Run a script as ``python`` would; its end is this process's."""
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    for number, (stream, flags) in enumerate(zip(streams, (os.O_RDONLY, *[os.O_WRONLY | os.O_CREAT] * 2))):
        os.dup2(os.open(stream, flags), number)
    sys.stdin = open(0, closefd=False)  # noqa: SIM115 (the server's may have read on)
    sys.argv = command
    sys.path[0] = str(Path(command[0]).parent)
    runpy.run_path(command[0], run_name="__main__")


if __name__ == "__main__":
    serve()
