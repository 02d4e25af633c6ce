"""Several ranks, each with a part of the batch, training as one process would with all of it."""

from __future__ import annotations

import mindspore as ms
from mindspore import Tensor, nn, ops
from mindspore.communication import get_group_size

from ms_impl.cells.loss import IGNORED_LABEL, shift_labels


def data_parallel_ranks() -> int:
    """How many ranks hold a part of the batch each; 1 where MindSpore itself sees the batch as a whole."""
    mode = ms.get_auto_parallel_context("parallel_mode")
    return get_group_size() if mode == ms.ParallelMode.DATA_PARALLEL else 1


def gradients_are_averaged() -> bool:
    """Whether MindSpore divides the sum of the ranks' gradients by their number."""
    return ms.get_auto_parallel_context("gradients_mean")


class TokenShare(nn.Cell):
    """Which share of the joint batch's loss is this rank's.

    The loss of a batch is a mean over its labelled tokens. Of a batch cut into parts it is the sum of the parts'
    losses, each weighted with its share of all labelled tokens; the gradients likewise.
    """

    def __init__(self):
        super().__init__()
        self.sum_over_ranks = ops.AllReduce()

    def construct(self, labels: Tensor) -> Tensor:
        """labels int [B, T] of this rank → its share of all ranks' labelled tokens: fp32 scalar, 0 without any."""
        count = (shift_labels(labels) != IGNORED_LABEL).astype(ms.float32).sum()
        total = self.sum_over_ranks(count.reshape(1)).reshape(())
        return count / ops.maximum(total, Tensor(1.0, ms.float32))

    def joint(self, loss: Tensor, share: Tensor) -> Tensor:
        """The joint batch's loss, from this rank's loss and share: fp32 scalar, the same on every rank."""
        return self.sum_over_ranks((loss * share).reshape(1)).reshape(())


def wait_for_ranks() -> None:
    """Return when every rank has come here. (On CPU there is no Barrier operator.)"""
    ops.AllReduce()(Tensor([0.0], ms.float32)).asnumpy()
