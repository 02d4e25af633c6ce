"""Curves, read back as TensorBoard reads them."""

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from ms_impl.errors import InputError
from ms_impl.train.tensorboard_log import TensorBoardLog


def curve(directory, tag: str) -> list[tuple[int, float]]:
    events = EventAccumulator(str(directory)).Reload()
    return [(event.step, event.value) for event in events.Scalars(tag)]


def test_scalars_are_there_at_once(tmp_path):
    log = TensorBoardLog(tmp_path / "tensorboard")
    log.write(1, {"loss": 2.5, "lr": 0.125})
    log.write(2, {"loss": 1.5})
    assert curve(tmp_path / "tensorboard", "loss") == [(1, 2.5), (2, 1.5)]
    assert curve(tmp_path / "tensorboard", "lr") == [(1, 0.125)]


def test_a_resumed_run_goes_on_without_doubled_steps(tmp_path):
    for resumed_after, loss in ((0, 3.0), (2, 2.0), (3, 1.0)):
        log = TensorBoardLog(tmp_path, resumed_after)
        for step in range(resumed_after + 1, resumed_after + 4):
            log.write(step, {"loss": loss})
        log.close()
    assert curve(tmp_path, "loss") == [(1, 3.0), (2, 3.0), (3, 2.0), (4, 1.0), (5, 1.0), (6, 1.0)]


def test_what_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="file/tensorboard: cannot be written"):
        TensorBoardLog(tmp_path / "file/tensorboard")
