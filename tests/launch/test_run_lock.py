"""One run at a time in an output directory; the lock ends with its process."""

import os
import signal
import socket
import subprocess
import sys

import pytest

from ms_impl.errors import InputError
from ms_impl.launch.run_lock import lock_run

HOLD = """
import os, subprocess, sys
from pathlib import Path
from ms_impl.launch.run_lock import lock_run
lock_run(Path(sys.argv[1]), for_children="child" in sys.argv)
if os.fork() == 0:  # a worker of the data pipeline, say, that outlives it
    sys.stdout.close()
    import time; time.sleep(30); os._exit(0)
if "child" in sys.argv:
    print(subprocess.run([sys.executable, "-c", sys.argv[2], sys.argv[1], "", "inner"]).returncode, flush=True)
print("holds", flush=True)
input()
"""


@pytest.fixture
def hold(tmp_path):
    """Start a process that locks ``out``; all are ended afterwards, with their children."""
    processes = []

    def start(*words: str) -> subprocess.Popen:
        process = subprocess.Popen(
            [sys.executable, "-c", HOLD, tmp_path / "out", *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            text=True, start_new_session=True,
        )  # fmt: skip
        processes.append(process)
        return process

    yield start
    for process in processes:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def test_a_second_run_is_refused_with_the_name_of_the_first(hold, tmp_path):
    first = hold()
    assert first.stdout.readline() == "holds\n"
    with pytest.raises(InputError) as caught:
        lock_run(tmp_path / "out")
    message = str(caught.value)
    assert f"process {first.pid} on {socket.gethostname()}, since 20" in message and f"{tmp_path}/out" in message
    lock_run(tmp_path / "out", "eval")
    lock_run(tmp_path / "other")


def test_the_lock_dies_with_its_process_though_a_child_of_it_lives(hold, tmp_path):
    first = hold()
    assert first.stdout.readline() == "holds\n"
    first.kill()
    first.wait()
    lock_run(tmp_path / "out")


def test_the_processes_of_a_run_pass_and_others_do_not(hold, tmp_path):
    supervisor = hold(HOLD.replace("input()", "").replace("30", "0"), "child")
    assert supervisor.stdout.readline() == "holds\n"  # what its child printed
    assert [supervisor.stdout.readline() for _ in range(2)] == ["0\n", "holds\n"]
    with pytest.raises(InputError, match="another run writes there"):
        lock_run(tmp_path / "out")


def test_a_directory_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "loop").symlink_to("loop")
    for name in ("file/out", "loop", "nul\0"):
        with pytest.raises(InputError, match="cannot be written to"):
            lock_run(tmp_path / name)
