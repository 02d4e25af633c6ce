"""A step as log, curves and user have it; the time that a run still needs."""

from dataclasses import replace

import pytest

from ms_impl.train.step import Pace, Step, duration

STEP = Step(
    number=9, total=60, epoch=0.6, loss=2.34564, overflow=False, loss_scale=64.0, lr=(9.8e-5,), grad_norm=1.234,
    seconds=3.0, eta=125.0, useful_tokens=3702, all_tokens=4254,
)  # fmt: skip


def test_the_line_of_a_step():
    assert STEP.line() == (
        "step  9/60  epoch 0.60  loss 2.3456  lr 9.80e-05  grad norm 1.23"
        "  1,234 useful tokens/s (87% of 1,418)  3 s/step  ETA 2 min 5 s"
    )


def test_the_line_leaves_out_what_is_not_known_and_says_what_is_unusual():
    line = replace(STEP, grad_norm=None, eta=None, lr=(1e-5, 1e-4), overflow=True).line()
    assert "norm" not in line and "ETA" not in line
    assert "  lr 1.00e-05, 1.00e-04  overflow at loss scale 64: not updated  1,234" in line


def test_the_record_and_the_scalars_of_a_step():
    record = STEP.record()
    assert record["step"] == 9 and record["lr"] == 9.8e-5 and record["useful_tokens_per_second"] == 1234
    assert STEP.scalars() == {
        "loss": 2.34564, "lr": 9.8e-5, "grad_norm": 1.234, "loss_scale": 64.0,
        "useful_tokens_per_second": 1234.0, "useful_share": 3702 / 4254,
    }  # fmt: skip
    several = replace(STEP, lr=(1e-5, 1e-4), grad_norm=None)
    assert several.record()["lr"] == [1e-5, 1e-4]
    assert several.scalars()["lr/1"] == 1e-4 and not {"lr", "grad_norm"} & several.scalars().keys()


def test_neither_the_compiling_step_nor_a_single_slow_one_changes_the_time_left():
    pace = Pace()
    pace.add(60.0)
    assert pace.time_for(10) is None
    for seconds in (2.0, 2.0, 90.0, 2.0):
        pace.add(seconds)
    assert pace.time_for(10) == 20.0


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0, "0 s"), (0.2, "1 s"), (59.5, "1 min 0 s"), (3599, "59 min 59 s"), (3 * 86400 + 7300, "3 d 2 h")],
)
def test_a_duration_has_two_units(seconds, words):
    assert duration(seconds) == words
