"""A training run under way: what its parts know of it and tell each other, in one place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mindspore import nn
from mindspore.train.callback import Callback

from ms_impl.train.feed import StepFeed
from ms_impl.train.step import Step
from ms_impl.train.tensorboard_log import TensorBoardLog


@dataclass
class RunState:
    """Filled as the run goes on.

    Attributes:
        output: where it writes.
        feed: its data from the first step to be made on, once they are read.
        model: the network that is trained, once it is built.
        step: the last step that was made.
        events: the curves, on rank 0 where there is a LossRecorder.
        began: when the step under way began, by ``time.perf_counter``.
        saved_step: the last step of which there is a checkpoint.
        stopped: whether the run was asked to stop, and did, before its end.
    """

    output: Path
    feed: StepFeed | None = None
    model: nn.Cell | None = None
    step: Step | None = None
    events: TensorBoardLog | None = None
    began: float = 0.0
    saved_step: int = 0
    stopped: bool = False


class RunCallback(Callback):
    """A callback that knows its run. MindFormers makes those that a YAML names, and so cannot give it to them."""

    run: RunState


def told(callbacks: Sequence[Callback], run: RunState) -> list[Callback]:
    """The callbacks, those of ours with the run."""
    for callback in callbacks:
        if isinstance(callback, RunCallback):
            callback.run = run
    return list(callbacks)
