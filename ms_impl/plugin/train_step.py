"""One step of training, as MindFormers' step cell with what it lacks outside semi-automatic parallelism."""

from __future__ import annotations

import mindspore as ms
from mindformers.tools.register import MindFormerModuleType, MindFormerRegister
from mindformers.wrapper import MFTrainOneStepCell
from mindspore import Tensor, nn, ops

from ms_impl.cells.device import on_ascend
from ms_impl.cells.loss import total_weight
from ms_impl.generate.graph_cache import CachedGraph
from ms_impl.kernels.operators import train_by_kernels
from ms_impl.train.feed import AFTER_MEDIA
from ms_impl.train.grad_accumulation import (
    Columns,
    GlobalBatchLoss,
    data_parallel_ranks,
    gradients_are_averaged,
    sums_in_order,
)  # fmt: skip
from ms_impl.train.gradient_norm import ClipByGlobalNorm

_LABELS, _LOSS_WEIGHTS = (AFTER_MEDIA.index(name) - len(AFTER_MEDIA) for name in ("labels", "loss_weights"))


def weight_of(columns: Columns) -> Tensor:
    """What the labels of a batch, given as ``step_columns``, weigh together: an fp32 scalar."""
    return total_weight(columns[_LABELS], columns[_LOSS_WEIGHTS])


@MindFormerRegister.register(MindFormerModuleType.WRAPPER, alias="MFTrainOneStepCell")
class TrainStep(CachedGraph, MFTrainOneStepCell):
    """MindFormers 1.9.0's step cell (wrapper/wrapper.py:164), under its own name in YAML, mended in four places.

    In a process alone on a CPU, its graph is kept for the next run of the same settings (``CachedGraph``).

    ``grads_for_legacy`` (wrapper/wrapper.py:375): the ranks of a data-parallel run each average over their own labels;
    weighted equally, they would train on another loss than one process with all of the batch. Gradient accumulation
    would not happen at all (trainer/base_trainer.py:321). Here a batch in parts is one global batch, and every rank
    reports its loss.

    ``get_overflow_status`` (MindSpore 2.9.0, nn/wrap/loss_scale.py:550, called at wrapper/wrapper.py:333): on CPU it
    stops with "Unsupported op [NPUGetFloatStatusV2]". The reduced gradients are the same on every rank, so looking at
    them is enough.

    ``grad_reducer`` (MindSpore 2.9.0, nn/wrap/grad_reducer.py): on CPU its sums over the ranks come in no fixed order
    (``SumInOrder``).

    ``clip_grad_norm`` (core/clip_grad.py): on CPU its sums take a twelfth of a step. Ours shares them with the look for
    overflows.

    Args:
        accumulation: micro-batches that a rank's batch is cut into, along its first axis.
    """

    def __init__(self, network, optimizer, accumulation: int = 1, max_grad_norm: float = 1.0, **kwargs):
        train_by_kernels(network)
        super().__init__(network, optimizer, max_grad_norm=max_grad_norm, **kwargs)
        self.learning_rate = optimizer.learning_rate  # a copy would have MindSpore rename every parameter
        self.global_batch = GlobalBatchLoss(self.network, self.weights, weight_of, accumulation)
        if sums_in_order():
            self.grad_reducer = nn.Identity()
        # What MindSpore does to the sum over the ranks.
        self.divided_by = data_parallel_ranks() if gradients_are_averaged() and not sums_in_order() else 1
        self.on_ascend = on_ascend()
        if not self.on_ascend:
            self.clip_grad_norm = ClipByGlobalNorm(max_grad_norm)
            self.squared_norm = self.clip_grad_norm.squared_norm

    def grads_for_legacy(self, scaling_sens: Tensor, *inputs: Tensor):
        """What ``GlobalBatchLoss`` gives, and the divisor of gradients (1)."""
        scale = ops.cast(scaling_sens, ms.float32).reshape(()) * self.divided_by
        loss, gradients = self.global_batch(scale, *inputs)
        return loss, gradients, self.grad_scale_factor

    def get_overflow_status(self, status: Tensor, compute_output: tuple[Tensor, ...]):
        """Whether a gradient is not finite."""
        if self.on_ascend:
            return super().get_overflow_status(status, compute_output)
        return ops.logical_not(ops.isfinite(self.squared_norm(compute_output)))
