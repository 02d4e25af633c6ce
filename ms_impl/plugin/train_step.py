"""One step of training, as MindFormers' step cell with what it lacks outside semi-automatic parallelism."""

from __future__ import annotations

import mindspore as ms
from mindformers.tools.register import MindFormerModuleType, MindFormerRegister
from mindformers.wrapper import MFTrainOneStepCell
from mindspore import Tensor, ops

from ms_impl.cells.device import on_ascend
from ms_impl.plugin.model import INPUT_COLUMNS
from ms_impl.train.joint_batch import TokenShare, data_parallel_ranks, gradients_are_averaged
from ms_impl.train.overflow import any_overflow

_LABELS = INPUT_COLUMNS.index("labels")


@MindFormerRegister.register(MindFormerModuleType.WRAPPER, alias="MFTrainOneStepCell")
class TrainStep(MFTrainOneStepCell):
    """MindFormers 1.9.0's step cell (wrapper/wrapper.py:164), under its own name in YAML, mended in two places.

    ``grads_for_legacy`` (wrapper/wrapper.py:375): the ranks of a data-parallel run each average over their own labelled
    tokens; weighted equally, they would train on another loss than one process with all of the batch. Here each
    counts by its tokens, and every rank reports the joint loss.

    ``get_overflow_status`` (MindSpore 2.9.0, nn/wrap/loss_scale.py:550, called at wrapper/wrapper.py:333): on CPU it
    stops with "Unsupported op [NPUGetFloatStatusV2]". The reduced gradients are the same on every rank, so looking at
    them is enough.
    """

    def __init__(self, network, optimizer, **kwargs):
        super().__init__(network, optimizer, **kwargs)
        ranks = data_parallel_ranks()
        self.token_share = TokenShare() if ranks > 1 else None
        self.divided_by = ranks if gradients_are_averaged() else 1  # what MindSpore does to the sum over the ranks
        self.on_ascend = on_ascend()

    def grads_for_legacy(self, scaling_sens: Tensor, *inputs: Tensor):
        """Loss of the joint batch, gradients of this rank's share of it, and the divisor of gradients (1)."""
        loss = self.network(*inputs)
        scale = ops.cast(scaling_sens, ms.float32)
        if self.token_share is not None:
            share = self.token_share(inputs[_LABELS])
            loss = self.token_share.joint(loss, share)
            scale = scale * share * self.divided_by
        grads = self.grad(self.network, self.weights)(*inputs, ops.ones_like(loss) * scale)
        return loss, grads, self.grad_scale_factor

    def get_overflow_status(self, status: Tensor, compute_output: tuple[Tensor, ...]):
        """Whether a gradient is not finite."""
        if self.on_ascend:
            return super().get_overflow_status(status, compute_output)
        return any_overflow(compute_output)
