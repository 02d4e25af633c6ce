"""A batch in micro-batches: the same loss and gradients, the memory of one. (Over ranks: test_rank_steps.py.)"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import mindspore as ms
import numpy as np
import pytest
from mindspore import Parameter, Tensor, nn, ops

from ms_impl.train.grad_accumulation import Columns, GlobalBatchLoss

SCRIPT = Path(__file__).with_name("peak_memory.py")


class WeightedMean(nn.Cell):
    """Rows of data times a matrix, squared: their weighted mean, 0 without weights."""

    def __init__(self, dtype: ms.Type):
        super().__init__()
        self.layer = Layer(dtype)

    def construct(self, data: Tensor, weights: Tensor) -> Tensor:
        losses = ops.square(self.layer(data)).mean(1) * weights
        return losses.sum() / ops.maximum(weights.sum(), Tensor(1e-6))


class Layer(nn.Cell):
    def __init__(self, dtype: ms.Type):
        super().__init__()
        self.matrix = Parameter(Tensor(np.linspace(-1, 1, 12).reshape(4, 3)).astype(dtype), name="matrix")

    def construct(self, data: Tensor) -> Tensor:
        return ops.tanh(ops.matmul(data, self.matrix.astype(ms.float32)))


def second(columns: Columns) -> Tensor:
    return columns[1].sum()


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("dtype", [ms.float32, ms.float16])
@pytest.mark.parametrize("mode", [ms.GRAPH_MODE, ms.PYNATIVE_MODE], ids=["graph", "pynative"])
def test_micro_batches_are_the_whole_batch(mode, dtype, recompute):
    ms.set_context(mode=mode)
    rng = np.random.default_rng(0)
    data = Tensor(rng.normal(0, 1, (6, 4)).astype(np.float32))
    weights = Tensor(np.array([1, 0.2, 0, 0, 3, 0.5], np.float32))  # the second of three micro-batches weighs nothing
    network = WeightedMean(dtype).set_train()
    if recompute:
        network.layer.recompute()
    trained = ms.ParameterTuple(network.trainable_params())
    loss, (gradient,) = GlobalBatchLoss(network, trained, second)(Tensor(8.0), data, weights)
    part_loss, (part_gradient,) = GlobalBatchLoss(network, trained, second, 3)(Tensor(8.0), data, weights)
    assert float(part_loss.asnumpy()) == pytest.approx(float(loss.asnumpy()), rel=1e-6)
    rounding = 1e-6 if dtype == ms.float32 else 1e-3  # fp16 gradients are rounded in each micro-batch
    wanted = gradient.astype(ms.float32).asnumpy()
    np.testing.assert_allclose(part_gradient.asnumpy(), wanted, rtol=rounding, atol=rounding)
    assert part_gradient.dtype == ms.float32 and gradient.dtype == dtype


def test_micro_batches_need_the_memory_of_one():
    """16 micro-batches take 36 MiB where the whole batch takes 317."""

    def peak(micro_batches: int) -> int:
        command = [sys.executable, SCRIPT, str(micro_batches)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOG_v": "3"}
        return int(subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout)

    assert peak(16) < peak(1) / 4
