"""What is seen of a run while it trains, and what stops it when its loss is no number.

Callbacks are called in the order of ``with_step_callbacks``: a step is read once, shown and written down, and checked,
before anything is saved of it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import Any

from mindformers.tools.register import MindFormerModuleType, MindFormerRegister
from mindspore import Tensor
from mindspore.train.callback import Callback

from ms_impl.errors import InputError
from ms_impl.plugin.run_state import RunCallback, RunState, told
from ms_impl.train.loss_log import LossLog
from ms_impl.train.ranks import is_first_rank, rank
from ms_impl.train.step import Pace, Step, StepPlan
from ms_impl.train.tensorboard_log import TensorBoardLog


class StepReader(RunCallback):
    """Reads what each step puts out, for the callbacks after it."""

    def on_train_begin(self, run_context) -> None:
        self._number = self.run.feed.first_step
        self._not_counted = self._number - run_context.original_args().cur_step_num  # by MindSpore
        self._pace = Pace()
        self.run.began = time.perf_counter()

    def on_train_step_end(self, run_context) -> None:
        mindspore = run_context.original_args()
        loss, overflow, loss_scale, rate, grad_norm, *_ = mindspore.net_outputs
        outputs = {
            "loss": _number(loss),  # waits for the device
            "overflow": bool(_number(overflow)),
            "loss_scale": _number(loss_scale),
            "lr": learning_rates(mindspore.train_network, rate),
            "grad_norm": None if grad_norm is None else _number(grad_norm),
        }
        seconds = time.perf_counter() - self.run.began
        number = self._not_counted + mindspore.cur_step_num
        self.run.step = self._step(self.run.feed.plan, number, seconds, outputs)
        self._number = number

    def _step(self, plan: StepPlan, number: int, seconds: float, outputs: dict[str, Any]) -> Step:
        seconds /= number - self._number  # with sink_mode the device makes several on its own
        self._pace.add(seconds)
        return Step(
            number=number,
            total=plan.total_steps,
            epoch=plan.epoch_at(number),
            seconds=seconds,
            eta=self._pace.time_for(plan.total_steps - number),
            useful_tokens=plan.useful_tokens(number - 1),
            all_tokens=plan.all_tokens(number - 1),
            **outputs,
        )


@MindFormerRegister.register(MindFormerModuleType.CALLBACK, alias="MFLossMonitor")
class StepPrinter(RunCallback):
    """Prints a line each ``per_print_times`` steps on rank 0, under the name of MindFormers' class in YAML.

    MindFormers 1.9.0's class (core/callback/callback.py:348) takes two lines of its log, counts samples rather than
    tokens, and estimates the ETA from the last step alone.
    """

    def __init__(self, per_print_times: int = 1, **_):  # what else MindFormers hands over, the plan knows better
        self._every = per_print_times
        self._prints = is_first_rank()

    def on_train_begin(self, run_context) -> None:
        self._printed = self.run.feed.first_step

    def on_train_step_end(self, run_context) -> None:
        step = self.run.step
        if self._prints and step.number - self._printed >= self._every:
            print(step.line(), flush=True)
            self._printed = step.number


@MindFormerRegister.register(MindFormerModuleType.CALLBACK)
class LossRecorder(RunCallback):
    """Writes each step to ``<output_dir>/losses/rank_N.jsonl`` and, on rank 0, to ``<output_dir>/tensorboard``."""

    def on_train_begin(self, run_context) -> None:
        done, output = self.run.feed.first_step, self.run.output
        self._log = LossLog(output / f"losses/rank_{rank()}.jsonl", resumed_after=done)
        if is_first_rank():
            self.run.events = TensorBoardLog(output / "tensorboard", resumed_after=done)

    def on_train_step_end(self, run_context) -> None:
        step = self.run.step
        self._log.write(**step.record())
        if self.run.events:
            self.run.events.write(step.number, step.scalars())

    def on_train_end(self, run_context) -> None:
        self._log.close()
        if self.run.events:
            self.run.events.close()


class LossGuard(RunCallback):
    """Stops the run, by an InputError naming the batch's conversations, when a loss is not finite.

    A gradient that is not finite while the loss is, is an ordinary overflow of the loss scale: that step is skipped
    and training goes on.
    """

    def on_train_step_end(self, run_context) -> None:
        step = self.run.step
        if math.isfinite(step.loss):
            return
        records = self.run.feed.plan.records(step.number - 1)
        raise InputError(
            f"step {step.number}: the loss is {step.loss}; the run stops and saves nothing of this step. "
            f"Look at the conversations of its batch, or lower the learning rate: {'; '.join(records)}"
        )


class StepStart(RunCallback):
    """Last of all: from here on the next step's time runs, which begins with waiting for its data."""

    def on_train_step_end(self, run_context) -> None:
        self.run.began = time.perf_counter()


def with_step_callbacks(callbacks: Sequence[Callback], run: RunState) -> list[Callback]:
    """A run's callbacks in the order they must have: read, show and write down, check; then the others as they came."""
    recording = [callback for callback in callbacks if isinstance(callback, StepPrinter | LossRecorder)]
    others = [callback for callback in callbacks if callback not in recording]
    return told([StepReader(), *recording, LossGuard(), *others, StepStart()], run)


def learning_rates(train_network, rate) -> tuple[float, ...]:
    """The rates of a step: one, or one for each group of parameters that has its own.

    ``rate`` is what MindFormers 1.9.0's step cell returns (wrapper/wrapper.py:297): a scalar; with
    ``grouped_lr_schedule`` that of all other parameters, the groups' being in a parameter; and without a schedule a
    tuple with one for every parameter.
    """
    if isinstance(rate, tuple | list):
        return tuple(dict.fromkeys(map(_number, rate)))
    if train_network.use_grouped_lr:
        return _number(rate), *map(float, train_network.grouped_lr_parameter.asnumpy())
    return (_number(rate),)


def _number(value: Tensor | float) -> float:
    """A scalar, or the only element of a tensor."""
    return float(value.asnumpy().reshape(())) if isinstance(value, Tensor) else float(value)
