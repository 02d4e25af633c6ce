"""The language model's head and its loss together, a few rows at a time: never are all logits held."""

from __future__ import annotations

import mindspore as ms
from mindspore import Tensor, nn, ops

from ms_impl.cells.expand import expand
from ms_impl.cells.kernel_cell import KernelCell
from ms_impl.cells.loss import prediction_weights, share, shift_labels
from ms_impl.kernels.operators import (
    cross_entropy_operator,
    linear_operator,
    summed_products_operator,
    weighted_rows_operator,
)

CHUNK = 256  # rows: enough for a matrix product at full speed


class LinearCrossEntropy(nn.Cell):
    """``causal_cross_entropy`` of hidden·Wᵀ in fp32, without logits where nothing is learnt."""

    def __init__(self):
        super().__init__()
        self.sum_over_chunks = _SumOverChunks()

    def construct(self, hidden: Tensor, weight: Tensor, labels: Tensor, loss_weights: Tensor | None = None) -> Tensor:
        """A scalar, from hidden [B, T, D], W [vocab, D], int labels [B, T] and fp32 loss_weights [B, T]."""
        weights = prediction_weights(labels, loss_weights).reshape(-1)
        rows, chunks = weighing_rows(weights)
        # Row B·T, of zeros, fills the last chunk.
        width, targets = hidden.shape[-1], ops.maximum(shift_labels(labels).reshape(-1), 0)
        hidden = ops.concat((hidden.astype(ms.float32).reshape(-1, width), ops.zeros((1, width), ms.float32)), 0)
        targets = ops.concat((targets, ops.zeros((1,), targets.dtype)), 0)
        padded = ops.concat((weights, ops.zeros((1,), ms.float32)), 0)
        part = self.sum_over_chunks(hidden, weight.astype(ms.float32), targets, padded, rows, chunks)[0]
        return share(part, weights.sum())


def weighing_rows(weights: Tensor) -> tuple[Tensor, Tensor]:
    """Of N rows first those that weigh something, then row N again and again: int32 [·, CHUNK].

    Also how many of these chunks have rows that weigh something: an int32 scalar.
    """
    count = weights.shape[0]
    chunks = (count + CHUNK - 1) // CHUNK
    weighs = (weights != 0).astype(ms.int32)
    places = ops.cumsum(weighs, 0)
    index = ops.where(weighs > 0, places - 1, chunks * CHUNK).reshape(-1, 1)
    rows = ops.full((chunks * CHUNK + 1,), count, dtype=ms.int32)
    rows = ops.tensor_scatter_update(rows, index.astype(ms.int32), ops.arange(count).astype(ms.int32))
    return rows[:-1].reshape(chunks, CHUNK), (places[-1] + (CHUNK - 1)) // CHUNK


class _SumOverChunks(KernelCell):
    """Σ weight · cross entropy, and its own gradient.

    The forward pass also makes the gradient of the hidden states, which needs the same logits. That of W makes them
    again, and is not compiled where W is frozen.
    """

    def __init__(self):
        super().__init__()
        self.products, self.by_rows = ops.MatMul(transpose_b=True), ops.MatMul()
        self.summed_products = ops.MatMul(transpose_a=True)
        self.log_softmax = ops.LogSoftmax(-1)
        self.gather = ops.Gather()
        self.pick = ops.GatherD()
        self.exp = ops.Exp()
        self.put = ops.TensorScatterUpdate()
        self.subtract = ops.TensorScatterSub()
        self.places = Tensor([[i] for i in range(CHUNK)], ms.int32)
        self.zeros = ops.ZerosLike()  # ops.zeros is a constant of the graph, which stays
        self.ones = Tensor([1.0] * CHUNK, ms.float32)
        self.first = Tensor(0, ms.int32)

    def use_kernel(self) -> None:
        """Compute by kernels where nothing is trained."""
        self.kernel = cross_entropy_operator()
        self.products_kernel = linear_operator(bias=False)
        self.rows_kernel, self.summed_kernel = weighted_rows_operator(), summed_products_operator()

    def construct(
        self, hidden: Tensor, weight: Tensor, targets: Tensor, weights: Tensor, rows: Tensor, chunks: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The sum over the first ``chunks`` of ``rows`` [·, CHUNK], and its gradient by hidden; all in fp32."""
        total, gradient = ops.zeros((), ms.float32), self.zeros(hidden)
        number = self.first
        while number < chunks:
            at = self.gather(rows, number, 0)
            row_weight = self.gather(weights, at, 0)
            slopes, losses = self.entropy(self.gather(hidden, at, 0), weight, self.gather(targets, at, 0))
            total = total + (losses * row_weight).sum()
            slope = self.rows_kernel(slopes, weight) if self.by_kernel() else self.by_rows(slopes, weight)
            gradient = self.put(gradient, at.reshape(-1, 1), slope * expand(row_weight.reshape(-1, 1), slope.shape))
            number = number + 1
        return total, gradient

    def bprop(self, hidden, weight, targets, weights, rows, chunks, out, dout):
        """Gradients by hidden and weight; the others have none."""
        weights = weights * dout[0]
        # The first chunk comes before the loop, whose start would be a constant of the graph in the shape of W: zeros.
        gradient = self.by_weight(hidden, weight, targets, weights, self.gather(rows, self.first, 0))
        number = self.first + 1
        while number < chunks:
            at = self.gather(rows, number, 0)
            gradient = gradient + self.by_weight(hidden, weight, targets, weights, at)
            number = number + 1
        return out[1] * dout[0], gradient, targets * 0, weights * 0, rows * 0, chunks * 0

    def by_weight(self, hidden: Tensor, weight: Tensor, targets: Tensor, weights: Tensor, at: Tensor) -> Tensor:
        """What the rows ``at`` add to the gradient of W."""
        row_weight, chunk = self.gather(weights, at, 0), self.gather(hidden, at, 0)
        slopes, _ = self.entropy(chunk, weight, self.gather(targets, at, 0))
        chunk = chunk * expand(row_weight.reshape(-1, 1), chunk.shape)
        return self.summed_kernel(slopes, chunk) if self.by_kernel() else self.summed_products(slopes, chunk)

    def entropy(self, chunk: Tensor, weight: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Of hidden states [CHUNK, D]: each row's gradient by its logits [CHUNK, vocab], and its cross entropy."""
        if self.by_kernel():
            slopes, losses = self.kernel(self.products_kernel(chunk, weight), target)
            return slopes, losses
        target = target.reshape(-1, 1)
        log_probs = self.log_softmax(self.products(chunk, weight))
        slopes = self.subtract(self.exp(log_probs), ops.concat((self.places, target), 1), self.ones)
        return slopes, -self.pick(log_probs, 1, target).reshape(-1)
