"""A process that is asked to stop finishes its step."""

import os
import signal
import subprocess
import sys

import pytest

PROGRAM = """
import sys, time
from ms_impl.plugin.graceful_stop import install, stop_requested

install()
print("ready", stop_requested(), flush=True)
while not stop_requested():
    time.sleep(0.01)
print("asked", flush=True)
if "stay" in sys.argv:
    time.sleep(60)
"""


def start(*arguments: str, **environment: str) -> subprocess.Popen:
    command = [sys.executable, "-c", PROGRAM, *arguments]
    environment = {**os.environ, **environment}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready False\n"
    return process


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_is_noted_and_said(number):
    process = start()
    process.send_signal(number)
    printed, errors = process.communicate(timeout=10)
    assert (process.returncode, printed) == (0, "asked\n")
    assert f"{number.name}: stopping at the end of this step" in errors


def test_a_second_signal_ends_the_process():
    process = start("stay")
    process.terminate()
    assert process.stdout.readline() == "asked\n"
    process.send_signal(signal.SIGINT)
    assert process.wait(10) == -signal.SIGINT


def test_a_process_with_a_launcher_leaves_the_second_signal_to_that():
    process = start("stay", BOUND_STARTER_PID=str(os.getpid()))
    process.terminate()
    assert process.stdout.readline() == "asked\n"
    process.terminate()
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(1)
    process.kill()
    process.wait()


def test_a_signal_that_is_ignored_stays_ignored():
    """As nohup does it."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        process = start()
    finally:
        signal.signal(signal.SIGHUP, before)
    process.send_signal(signal.SIGHUP)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(1)
    process.kill()
    process.wait()
