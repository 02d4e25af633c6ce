"""A command that ends with its keeper. The launcher's tests have it under msrun."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

BOUND = [sys.executable, "-m", "ms_impl.launch.die_with_parent"]


def test_the_command_replaces_the_process_and_keeps_its_exit_status():
    done = subprocess.run([*BOUND, str(os.getpid()), "sh", "-c", "echo $PPID; exit 3"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (3, f"{os.getpid()}\n")


def test_a_command_whose_keeper_has_ended_is_not_run(tmp_path):
    ended = subprocess.Popen(["true"])
    ended.wait()
    done = subprocess.run([*BOUND, str(ended.pid), "touch", "run"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1 and not (tmp_path / "run").exists()
    assert done.stderr == f"error: process {ended.pid}, which started this run, has ended\n"


def test_a_command_that_does_not_exist_is_named():
    done = subprocess.run([*BOUND, str(os.getpid()), "no-such-command"], capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr == "error: no-such-command: No such file or directory\n"


def test_the_command_is_killed_when_its_keeper_is(tmp_path):
    keeper = subprocess.Popen(
        ["sh", "-c", f"{' '.join(BOUND)} $$ sh -c 'echo $$ >pid; exec sleep 60' & wait"], cwd=tmp_path
    )
    pid = _wait_for_pid(tmp_path / "pid")
    keeper.send_signal(signal.SIGKILL)
    keeper.wait()
    time.sleep(0.5)
    assert not Path(f"/proc/{pid}/status").exists() or "zombie" in Path(f"/proc/{pid}/status").read_text()


def _wait_for_pid(path: Path) -> int:
    for _ in range(100):
        if path.exists() and (text := path.read_text()):
            return int(text)
        time.sleep(0.1)
    raise AssertionError("the command was not run")
