"""The harness itself: each kind of fault is found, and told with its seed."""

import os
import time

import pytest
from fuzz_harness import Limits, fuzz, table

from ms_impl.errors import InputError


def make(rng, folder):
    return int(rng.integers(1000)), folder


def run_faulty(fault):
    return fuzz("faulty", make, fault, 4, 0, Limits(seconds=2, megabytes=100))


def test_right_and_refused_are_counted():
    def run(case):
        if case[0] % 2:
            raise InputError("odd")

    outcome = fuzz("numbers", make, run, 50, 0, Limits())
    assert outcome.right + outcome.refused == 50 and outcome.right and outcome.refused and not outcome.faults
    assert "numbers" in table([outcome]) and "50" in table([outcome])


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        (lambda case: {}["key"], "KeyError"),
        (lambda case: os.abort(), "signal 6"),
        (lambda case: time.sleep(9), "a hang"),
        (lambda case: bytearray(b"1") * (300 << 20), "MB"),
        (lambda case: (case[1] / "out.partial").touch(), "left behind"),
        (lambda case: os._exit(3), "exit status 3"),
    ],
)
def test_faults_are_found(fault, told):
    outcome = run_faulty(fault)
    assert outcome.cases == 4 and told in outcome.faults[0][1], outcome


def test_an_endless_message_is_a_fault():
    def run(case):
        raise InputError("9" * 10_000)

    assert "characters" in run_faulty(run).faults[0][1]
