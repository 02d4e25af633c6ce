"""What is written down while training."""

from __future__ import annotations

import time
from pathlib import Path

from mindformers.tools.register import MindFormerModuleType, MindFormerRegister
from mindformers.tools.utils import get_output_root_path, get_real_rank
from mindspore.train.callback import Callback

from ms_impl.train.loss_log import LossLog


@MindFormerRegister.register(MindFormerModuleType.CALLBACK)
class LossRecorder(Callback):
    """Writes ``<output_dir>/losses/rank_N.jsonl``: step, loss, overflow, loss_scale, lr, grad_norm, seconds."""

    def on_train_begin(self, run_context) -> None:
        self._done = int(run_context.original_args().train_network.optimizer.global_step)  # before it was resumed
        path = Path(get_output_root_path()) / "losses" / f"rank_{get_real_rank()}.jsonl"
        self._log = LossLog(path, resumed_after=self._done)

    def on_train_step_begin(self, run_context) -> None:
        self._began = time.perf_counter()

    def on_train_step_end(self, run_context) -> None:
        state = run_context.original_args()
        loss, overflow, loss_scale, lr, grad_norm = state.net_outputs
        self._log.write(
            step=self._done + state.cur_step_num,
            loss=_number(loss),
            overflow=bool(_number(overflow)),
            loss_scale=_number(loss_scale),
            lr=_number(lr),
            grad_norm=None if grad_norm is None else _number(grad_norm),
            seconds=round(time.perf_counter() - self._began, 4),
        )

    def on_train_end(self, run_context) -> None:
        self._log.close()


def _number(value) -> float:
    """A scalar, or the only element of a tensor."""
    return float(value.asnumpy().reshape(())) if hasattr(value, "asnumpy") else float(value)
