"""A batch in parts, on several ranks and one after the other, trained as one process would with all of it at once.

The loss of a batch is the weighted mean over its labels. Of a batch in parts it is the sum of the parts' losses, each
times the share that its labels have of all weights; the gradients likewise.
"""

from __future__ import annotations

from collections.abc import Callable

import mindspore as ms
from mindspore import ParameterTuple, Tensor, nn, ops
from mindspore.communication import get_group_size

from ms_impl.cells.device import on_ascend
from ms_impl.cells.loss import share

Columns = tuple[Tensor, ...]

_fp32_zeros = ops.MultitypeFuncGraph("fp32_zeros")
_add = ops.MultitypeFuncGraph("add")
_zeros_like = ops.ZerosLike()  # ops.zeros is a constant of the graph, which stays


def data_parallel_ranks() -> int:
    """How many ranks hold a part of the batch each; 1 where MindSpore itself sees the batch as a whole."""
    mode = ms.get_auto_parallel_context("parallel_mode")
    return get_group_size() if mode == ms.ParallelMode.DATA_PARALLEL else 1


def gradients_are_averaged() -> bool:
    """Whether MindSpore divides the sum of the ranks' gradients by their number."""
    return ms.get_auto_parallel_context("gradients_mean")


def sums_in_order() -> bool:
    """Whether ``GlobalBatchLoss`` adds up the ranks' gradients. On Ascend MindSpore does, beside the backward pass."""
    return data_parallel_ranks() > 1 and not on_ascend()


class GlobalBatchLoss(nn.Cell):
    """The loss of all ranks' batches together, and its gradients; on Ascend what this rank adds to them.

    This rank's batch is cut along its first axis into micro-batches. They run in a loop, which is compiled once and
    holds the activations of one micro-batch at a time; their gradients are added in fp32.

    Args:
        network: the loss of a batch, from its columns.
        weights: the parameters to take gradients of.
        weigh: what the labels of a batch weigh together, from its columns: an fp32 scalar. Not called where there is
            one rank with one micro-batch.
        micro_batches: their number.
    """

    def __init__(
        self, network: nn.Cell, weights: ParameterTuple, weigh: Callable[[Columns], Tensor], micro_batches: int = 1
    ):
        super().__init__(auto_prefix=False)
        self.weights = weights
        self.weigh = weigh
        self.micro_batches = micro_batches
        self.sum_over_ranks = ops.AllReduce() if data_parallel_ranks() > 1 else None
        self.sum_in_order = SumInOrder() if sums_in_order() else None
        self.value_and_grad = ms.value_and_grad(_ScaledLoss(network), None, weights, has_aux=True)
        self.map_tensors = ops.HyperMap()
        self.first = Tensor(0, ms.int32)

    def construct(self, scale: Tensor, *columns: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """The global loss, fp32, and the gradients of scale · global loss, the same on every rank.

        Where ``sums_in_order`` is false, the gradients are this rank's part of them.
        """
        if self.micro_batches == 1 and self.sum_over_ranks is None:
            return self.backward(scale, columns)
        weight = self.weigh(columns)
        total = weight if self.sum_over_ranks is None else self.over_ranks(weight)
        if self.micro_batches == 1:
            part = share(weight, total)
            loss, gradients = self.backward(scale * part, columns)
            loss = loss * part
        else:
            loss, gradients = self.accumulate(scale, total, columns)
        if self.sum_in_order is not None:
            return self.sum_in_order(loss, gradients)
        return loss if self.sum_over_ranks is None else self.over_ranks(loss), gradients

    def backward(self, scale: Tensor, columns: Columns) -> tuple[Tensor, tuple[Tensor, ...]]:
        """A batch's loss, and the gradients of scale · loss."""
        (_, loss), gradients = self.value_and_grad(scale, *columns)
        return loss, gradients

    def accumulate(self, scale: Tensor, total: Tensor, columns: Columns) -> tuple[Tensor, tuple[Tensor, ...]]:
        """What this rank's micro-batches add to the global loss and to the gradients of scale · global loss."""
        # Loss and gradients in one tuple: MindSpore 2.9.0 takes a loop's tuple of one tensor for a stack of tensors.
        sums = self.map_tensors(_fp32_zeros, (total, *self.weights))
        number = self.first
        while number < self.micro_batches:
            batch = self.micro_batch(columns, number)
            part = share(self.weigh(batch), total)
            loss, gradients = self.backward(scale * part, batch)
            sums = self.map_tensors(_add, sums, (loss * part, *gradients))
            number = number + 1
        return sums[0], sums[1:]

    def micro_batch(self, columns: Columns, number: Tensor) -> Columns:
        """The rows of one micro-batch."""
        batch = ()
        for column in columns:
            rows = column.reshape(self.micro_batches, column.shape[0] // self.micro_batches, *column.shape[1:])
            batch += (ops.gather(rows, number, 0),)
        return batch

    def over_ranks(self, value: Tensor) -> Tensor:
        """The sum of the ranks' scalars."""
        return self.sum_over_ranks(value.reshape(1)).reshape(())


class SumInOrder(nn.Cell):
    """The sums over the ranks of a loss and of its gradients, one after the other, in fp32.

    MindSpore 2.9.0 cuts a graph at its loops. On CPU it keeps the collectives of each piece in order, but those of two
    pieces run as they come: the sum of one gradient took in another one from the other rank.
    """

    def __init__(self):
        super().__init__(auto_prefix=False)
        self.sum_over_ranks = ops.AllReduce()
        self.after = ops.Depend()

    def construct(self, loss: Tensor, gradients: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        """The sums of a scalar and of tensors; each has the dtype of what is added."""
        last = self.sum_over_ranks(loss.reshape(1))
        total, sums = last.reshape(()), ()
        for gradient in gradients:
            last = self.sum_over_ranks(self.after(gradient.astype(ms.float32), last))
            sums += (last.astype(gradient.dtype),)
        return total, sums


@_fp32_zeros.register("Tensor")
def _fp32_zeros_of(weight: Tensor) -> Tensor:
    return _zeros_like(weight.astype(ms.float32))


@_add.register("Tensor", "Tensor")
def _add_in_fp32(total: Tensor, addend: Tensor) -> Tensor:
    return total + addend.astype(ms.float32)


class _ScaledLoss(nn.Cell):
    """scale · loss, to be differentiated, and the loss."""

    def __init__(self, network: nn.Cell):
        super().__init__(auto_prefix=False)
        self.network = network

    def construct(self, scale: Tensor, *columns: Tensor) -> tuple[Tensor, Tensor]:
        loss = self.network(*columns)
        return loss * scale, loss
