"""Scores over the visual vocabulary and what they mix of its table, a few tokens at a time.

The scores of an image of 2,352 tokens over 65,532 words would take 0.6 GB a copy, and plain differentiation keeps four.
"""

from __future__ import annotations

import mindspore as ms
from mindspore import Tensor, nn, ops

from ms_impl.cells.expand import expand

CHUNK = 256  # tokens: enough for a matrix product at full speed


class MixOverChunks(nn.Cell):
    """softmax(layer_norm(x·Wᵀ)·gain + shift) times the first rows of a table, and its own gradient, all in fp32.

    The gradients of x, of W with gain and shift, and of the table each make the scores again in a loop of their own,
    which is not compiled where they are not asked for.
    """

    def __init__(self, eps: float, chunk: int = CHUNK):
        super().__init__()
        self.eps = eps
        self.chunk = chunk
        self.by_rows = ops.MatMul(transpose_b=True)
        self.matmul = ops.MatMul()
        self.by_columns = ops.MatMul(transpose_a=True)
        self.mean = ops.ReduceMean(keep_dims=True)
        self.sum = ops.ReduceSum()
        self.row_sum = ops.ReduceSum(keep_dims=True)
        self.square = ops.Square()
        self.rsqrt = ops.Rsqrt()
        self.softmax = ops.Softmax(-1)
        self.gather = ops.Gather()
        self.put = ops.TensorScatterUpdate()
        self.zeros = ops.ZerosLike()  # ops.zeros is a constant of the graph, which stays
        self.after = ops.Depend()
        self.first = Tensor(0, ms.int32)

    def construct(self, x: Tensor, weight: Tensor, gain: Tensor, shift: Tensor, table: Tensor) -> Tensor:
        """x [M, F], weight [W, F], gain and shift [W], table [≥ W, D] → [M, D]."""
        count, rows = x.shape[0], self.in_chunks(x)
        mixed = self.in_chunks(ops.zeros((count, table.shape[1]), ms.float32))
        number = self.first
        while number < rows.shape[0]:
            shares = self.shares(self.gather(rows, number, 0), weight, gain, shift)[2]
            mixed = self.put(mixed, number.reshape(1, 1), self.mix(shares, table).expand_dims(0))
            number = number + 1
        return mixed.reshape(-1, table.shape[1])[:count]

    def bprop(self, x, weight, gain, shift, table, out, dout):
        """Gradients by all five."""
        # Only then: else the compiler may find the same in the forward pass, and keep its results.
        rows, slopes, mixed = self.in_chunks(self.after(x, dout)), self.in_chunks(dout), self.in_chunks(out)
        by_x = self.by_x(rows, weight, gain, shift, table, mixed, slopes)
        by_weight, by_gain, by_shift = self.by_head(rows, weight, gain, shift, table, mixed, slopes)
        by_table = self.by_table(rows, weight, gain, shift, table, slopes)
        return by_x.reshape(-1, x.shape[1])[: x.shape[0]], by_weight, by_gain, by_shift, by_table

    def by_x(self, rows, weight, gain, shift, table, mixed, slopes):
        """The gradient by x, in chunks."""
        gradient, number = self.zeros(rows), self.first
        while number < rows.shape[0]:
            normal, factor, shares = self.shares(self.gather(rows, number, 0), weight, gain, shift)
            slope = self.by_scores(shares, table, self.gather(mixed, number, 0), self.gather(slopes, number, 0))
            part = self.matmul(self.by_products(slope, normal, factor, gain), weight)
            gradient = self.put(gradient, number.reshape(1, 1), part.expand_dims(0))
            number = number + 1
        return gradient

    def by_head(self, rows, weight, gain, shift, table, mixed, slopes):
        """The gradients by weight, gain and shift."""
        by_weight, by_gain, by_shift, number = self.zeros(weight), self.zeros(gain), self.zeros(shift), self.first
        while number < rows.shape[0]:
            row = self.gather(rows, number, 0)
            normal, factor, shares = self.shares(row, weight, gain, shift)
            slope = self.by_scores(shares, table, self.gather(mixed, number, 0), self.gather(slopes, number, 0))
            by_weight = by_weight + self.by_columns(self.by_products(slope, normal, factor, gain), row)
            by_gain = by_gain + self.sum(slope * normal, 0)
            by_shift = by_shift + self.sum(slope, 0)
            number = number + 1
        return by_weight, by_gain, by_shift

    def by_table(self, rows, weight, gain, shift, table, slopes):
        """The gradient by the table."""
        gradient, number = self.zeros(table), self.first
        while number < rows.shape[0]:
            shares = self.padded(self.shares(self.gather(rows, number, 0), weight, gain, shift)[2], table)
            gradient = gradient + self.by_columns(shares, self.gather(slopes, number, 0))
            number = number + 1
        return gradient

    def in_chunks(self, x: Tensor) -> Tensor:
        """[M, F] → [·, chunk, F], filled up with zeros."""
        count, width = x.shape
        chunk = self.chunk if self.chunk < count else count  # in written gradients, min does not compile
        if count % chunk:
            x = ops.concat((x, ops.zeros((chunk - count % chunk, width), x.dtype)), 0)
        return x.reshape(-1, chunk, width)

    def shares(self, x: Tensor, weight: Tensor, gain: Tensor, shift: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Of a chunk [C, F]: normalised products, what they were multiplied by for it, shares of words; [C, W] each."""
        products = self.by_rows(x, weight)
        shape = products.shape
        centred = products - expand(self.mean(products, -1), shape)
        factor = expand(self.rsqrt(self.mean(self.square(centred), -1) + self.eps), shape)
        normal = centred * factor
        scores = normal * expand(gain.reshape(1, -1), shape) + expand(shift.reshape(1, -1), shape)
        return normal, factor, self.softmax(scores)

    def mix(self, shares: Tensor, table: Tensor) -> Tensor:
        """Shares [C, W] times the first W rows of the table: [C, D]."""
        return self.matmul(self.padded(shares, table), table)

    def padded(self, shares: Tensor, table: Tensor) -> Tensor:
        """Shares [C, W] with zeros for the other rows of the table: a copy of all its first rows would be larger."""
        count, words = shares.shape
        return ops.concat((shares, ops.zeros((count, table.shape[0] - words), shares.dtype)), 1)

    def by_scores(self, shares: Tensor, table: Tensor, mixed: Tensor, slope: Tensor) -> Tensor:
        """The gradient by the scores [C, W] for that by the result [C, D]."""
        by_shares = self.by_rows(slope, table)[:, : shares.shape[1]]
        return shares * (by_shares - expand(self.row_sum(slope * mixed, -1), shares.shape))

    def by_products(self, slope: Tensor, normal: Tensor, factor: Tensor, gain: Tensor) -> Tensor:
        """The gradient by x·Wᵀ [C, W] for that by the scores."""
        slope = slope * expand(gain.reshape(1, -1), slope.shape)
        along = expand(self.mean(slope * normal, -1), slope.shape)
        return (slope - expand(self.mean(slope, -1), slope.shape) - normal * along) * factor
