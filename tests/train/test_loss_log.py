"""The log of a run's losses."""

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


@pytest.mark.parametrize(
    ("line", "message"), [("{", "line 2: not JSON"), ('{"step": 1}', "line 2: not a step"), ("3", "line 2: not a step")]
)
def test_a_damaged_line_is_named(tmp_path, line, message):
    (tmp_path / "log.jsonl").write_text('{"step": 1, "loss": 1}\n' + line)
    with pytest.raises(InputError, match=message):
        read_losses(tmp_path / "log.jsonl")
