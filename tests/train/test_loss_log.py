"""The log of a run's losses."""

import json

import pytest

from ms_impl.errors import InputError
from ms_impl.train.loss_log import LossLog, read_losses


def test_what_is_written_is_read_back_at_once(tmp_path):
    log = LossLog(tmp_path / "losses/rank_0.jsonl")
    log.write(step=1, loss=2.5, lr=0.1)
    assert read_losses(tmp_path / "losses/rank_0.jsonl") == [{"step": 1, "loss": 2.5, "lr": 0.1}]


def test_a_resumed_run_goes_on_after_its_step_and_a_new_one_begins_anew(tmp_path):
    path = tmp_path / "log.jsonl"
    for resumed_after, step in ((0, 1), (1, 2), (2, 3), (2, 3)):
        log = LossLog(path, resumed_after)
        log.write(step=step, loss=0.0)
        log.close()
    assert [step["step"] for step in read_losses(path)] == [1, 2, 3]
    LossLog(path).close()
    assert read_losses(path) == []


def test_what_is_not_finite_is_null_as_json_has_no_word_for_it(tmp_path):
    LossLog(tmp_path / "log.jsonl").write(step=1, loss=float("nan"), grad_norm=float("inf"))
    line = (tmp_path / "log.jsonl").read_text()
    assert json.loads(line, parse_constant=pytest.fail) == {"step": 1, "loss": None, "grad_norm": None}


def test_a_run_killed_while_it_wrote_can_be_resumed(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_text('{"step": 1, "loss": 3.0}\n{"step": 2, "lo')
    assert [step["step"] for step in read_losses(path)] == [1]
    LossLog(path, resumed_after=1).write(step=2, loss=2.0)
    assert [step["loss"] for step in read_losses(path)] == [3.0, 2.0]


def test_what_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"file/rank_0.jsonl: cannot be written"):
        LossLog(tmp_path / "file/rank_0.jsonl")


@pytest.mark.parametrize(
    ("line", "message"),
    [("{", "line 2: not JSON"), ('{"step": 1}', "line 2: not a record"), ("3", "line 2: not a record")],
)
def test_a_damaged_line_is_named(tmp_path, line, message):
    (tmp_path / "log.jsonl").write_text(f'{{"step": 1, "loss": 1}}\n{line}\n{{"step": 3, "loss": 1}}\n')
    with pytest.raises(InputError, match=message):
        read_losses(tmp_path / "log.jsonl")
