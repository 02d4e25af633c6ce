"""Ctrl-C reaches Python whatever handler MindSpore has left behind."""

import subprocess
import sys

BEGIN = """
import ctypes, os, signal, sys, time
from ms_impl.cli.interrupts import Interrupts
interrupts = Interrupts()
libc = ctypes.CDLL(None)
ended = ctypes.CFUNCTYPE(None, ctypes.c_int)(lambda number: os._exit(3))
def take_over():  # as MindSpore does, from any thread
    libc.signal(signal.SIGINT, ended)
take_over()
def ctrl_c():
    os.kill(os.getpid(), signal.SIGINT)
"""


def run(code: str) -> tuple[int, str]:
    ended = subprocess.run([sys.executable, "-c", BEGIN + code], capture_output=True, text=True, timeout=60)
    assert not ended.stderr, ended.stderr
    return ended.returncode, ended.stdout


def test_what_waits_for_input_is_interrupted():
    code = """
reading, writing = os.pipe()
import threading
threading.Timer(0.3, ctrl_c).start()
try:
    with interrupts.at_once():
        take_over()
        os.read(reading, 1)
except KeyboardInterrupt:
    print("heard")
"""
    assert run(code) == (0, "heard\n")


COMPUTES = """
def compute():
    until = time.monotonic() + 20
    while time.monotonic() < until:
        pass
"""


def test_what_computes_is_interrupted():
    code = """
ctrl_c()
try:
    compute()
except KeyboardInterrupt:
    print("heard")
"""
    assert run(COMPUTES + code) == (0, "heard\n")


def test_one_is_noted_and_the_next_is_heard():
    code = """
with interrupts.noted() as noted:
    ctrl_c()
    time.sleep(0.3)
    print(noted)
    try:
        ctrl_c()
        compute()
    except KeyboardInterrupt:
        print("heard")
"""
    assert run(COMPUTES + code) == (0, "[True]\nheard\n")


def test_a_second_one_ends_what_runs_no_python():
    code = """
import threading
for seconds in (0.3, 0.6):
    threading.Timer(seconds, ctrl_c).start()
libc.sleep(20)
"""
    assert run(code) == (130, "")
