"""Low-rank adaptation of a linear layer (LoRA, arXiv 2106.09685), and dropout that only the batch's seeds decide."""

from __future__ import annotations

from zlib import crc32

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn, ops

from ms_impl.cells.expand import expand
from ms_impl.cells.linear import Linear, linear

# Odd multipliers of 32-bit integer hashes (the first is 2³² over the golden ratio), as int32 bit patterns.
_STEP, _MIX_1, _MIX_2 = (int(np.uint32(value).view(np.int32)) for value in (0x9E3779B9, 0x7FEB352D, 0x846CA68B))
_SHIFT = 15
_SHIFTED = (1 << (32 - _SHIFT)) - 1  # the bits that a logical shift leaves; int32 shifts drag the sign along

# On CPU, MindSpore 2.9.0 keeps tables for Mul and Add of integers (cells/expand.py). These do the same without.
_times, _sum = ops.MulNoNan(), ops.AddN()


def mix(x: Tensor) -> Tensor:
    """Integers, int32, to integers that look drawn anew: multiply, xor-shift, multiply, modulo 2³²."""
    x = _times(x, Tensor(_MIX_1, ms.int32))
    x = ops.bitwise_xor(x, ops.bitwise_and(ops.bitwise_right_shift(x, _SHIFT), _SHIFTED))
    return _times(x, Tensor(_MIX_2, ms.int32))


class DropoutSeeds(nn.Cell):
    """One seed for each row of the batch, where every dropout of the model reads it.

    Args:
        rows: B, the rows that a forward pass takes.
    """

    def __init__(self, rows: int):
        super().__init__()
        self.values = Parameter(Tensor(np.zeros(rows, np.int32)), name="values", requires_grad=False)

    def construct(self, seeds: Tensor) -> None:
        """Set the seeds, int32 [B], of the forward pass that follows."""
        ops.assign(self.values, seeds)


class SeededDropout(nn.Cell):
    """Dropout whose mask is a pure function of the row's seed, the layer, the position in the row and the feature.

    So it does not depend on how rows are dealt out to ranks and micro-batches, and recomputation and resumed runs
    draw it again as it was. In evaluation mode x passes through.

    Args:
        p: the share that is dropped, 0 ≤ p < 1; the rest is scaled by 1/(1 − p).
        features: the size of x's last axis.
        layer: the name that tells this layer's draws from others'.
    """

    def __init__(self, p: float, features: int, layer: str, seeds: DropoutSeeds):
        super().__init__()
        self.scale = 1.0 / (1.0 - p)
        self.threshold = int(p * 2**32) - 2**31  # a hash is dropped below it; hashes are uniform over int32
        self.layer = int(np.uint32(crc32(layer.encode())).view(np.int32))
        self.seeds = seeds.values
        self.features = mix(Tensor(np.arange(1, features + 1, dtype=np.int32) * np.int32(_STEP)))

    def keep(self, x: Tensor) -> Tensor:
        """What x [B·n, …, features] is multiplied by, in its shape and dtype; each row of the batch has n entries."""
        rows, features = self.seeds.shape[0], x.shape[-1]
        positions = ops.arange(x.size // (rows * features)).astype(ms.int32) * _STEP
        rows_hashed = mix(ops.bitwise_xor(mix(self.seeds), self.layer))
        places = mix(rows_hashed.reshape(rows, 1) + positions.reshape(1, -1))
        shape = (places.size, features)
        hashes = mix(_sum((expand(places.reshape(-1, 1), shape), expand(self.features.reshape(1, -1), shape))))
        kept = (hashes >= self.threshold).astype(x.dtype) * self.scale
        return ops.stop_gradient(kept.reshape(x.shape))

    def construct(self, x: Tensor) -> Tensor:
        """x [B·n, …, features], row by row of the batch, to the same shape."""
        return x * self.keep(x) if self.training else x


class LowRankFactor(nn.Cell):
    """x·Wᵀ with a trained ``weight``; fp32, and cast to x's dtype."""

    def __init__(self, values: np.ndarray):
        super().__init__()
        self.weight = Parameter(Tensor(values), name="weight")

    def construct(self, x: Tensor) -> Tensor:
        """[..., in] → [..., out]."""
        return linear(x, self.weight)


class LoraLinear(nn.Cell):
    """y = adapted(x) + (alpha/r)·B(A(dropout(x))), with A [r, in] and B [out, r].

    The adapted layer's parameters are also this cell's own, so that they are found as ``NAME.weight`` and ``NAME.bias``
    as before; beside them stand ``NAME.lora_A.weight`` and ``NAME.lora_B.weight``, as PEFT calls them.

    Args:
        adapted: the layer.
        a, b: the factors' values, fp32.
        scaling: alpha/r.
        dropout: applied to the input of A.
    """

    def __init__(self, adapted: Linear, a: np.ndarray, b: np.ndarray, scaling: float, dropout: nn.Cell):
        super().__init__()
        self.weight = adapted.weight
        self.bias = adapted.bias
        self.adapted = adapted
        self.lora_A = LowRankFactor(a)
        self.lora_B = LowRankFactor(b)
        self.scaling = scaling
        self.dropout = dropout

    def construct(self, x: Tensor) -> Tensor:
        """[..., in] → [..., out], in x's dtype."""
        return self.adapted(x) + self.lora_B(self.lora_A(self.dropout(x)) * self.scaling)
