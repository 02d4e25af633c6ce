"""How far a training step's gradients raise the peak of this process's memory; prints MiB.

python peak_memory.py MICRO_BATCHES
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops

from ms_impl.train.grad_accumulation import Columns, GlobalBatchLoss

ROWS, TOKENS, WIDTH, LAYERS = 16, 1024, 128, 12


class Network(nn.Cell):
    """The mean square of what a stack of layers makes: its activations are far larger than its weights."""

    def __init__(self):
        super().__init__()
        self.layers = nn.CellList([nn.Dense(WIDTH, WIDTH, activation="gelu") for _ in range(LAYERS)])

    def construct(self, hidden: Tensor) -> Tensor:
        for layer in self.layers:
            hidden = hidden + layer(hidden)
        return ops.square(hidden).mean()


def rows(columns: Columns) -> Tensor:
    """Every row weighs as much."""
    return ops.ones_like(columns[0][:, 0, 0]).sum()


def peak() -> int:
    """The most MiB that this process has held. (getrusage counts what the parent held, too.)"""
    return int(re.search(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text())[1]) // 1024


def main() -> None:
    """One step."""
    ms.set_context(mode=ms.GRAPH_MODE)
    network = Network().set_train()
    step = GlobalBatchLoss(network, ms.ParameterTuple(network.trainable_params()), rows, int(sys.argv[1]))
    data = Tensor(np.random.default_rng(0).normal(0, 1, (ROWS, TOKENS, WIDTH)).astype(np.float32))
    step.compile(Tensor(1.0), data)
    before = peak()
    loss, gradients = step(Tensor(1.0), data)
    loss.asnumpy(), [gradient.asnumpy() for gradient in gradients]
    print(peak() - before)


if __name__ == "__main__":
    main()
