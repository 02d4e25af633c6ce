"""A weight with its low-rank update merged into it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ms_impl.io.dtypes import FP32, DType, cast
from ms_impl.io.tensors import BLOCK_BYTES, Shape, Tensor


@dataclass(frozen=True)
class MergedTensor(Tensor):
    """W + scaling · B·A in fp32, computed a few rows at a time.

    Attributes:
        weight: W [out, in].
        a, b: A [r, in] and B [out, r].
    """

    weight: Tensor
    a: Tensor
    b: Tensor
    scaling: float
    dtype: DType = FP32

    @property
    def name(self) -> str:
        return self.weight.name

    @property
    def shape(self) -> Shape:
        return self.weight.shape

    def array(self) -> np.ndarray:
        return np.concatenate(list(self.blocks())).reshape(self.shape)

    def blocks(self) -> Iterator[np.ndarray]:
        weight, a, b = self.weight.array(), _fp32(self.a), _fp32(self.b)
        rows, columns = self.shape
        step = max(1, BLOCK_BYTES // (columns * FP32.itemsize))
        for start in range(0, rows, step):
            part = slice(start, start + step)
            update = (b[part] @ a) * np.float32(self.scaling)
            yield (cast(weight[part], self.weight.dtype, FP32) + update).reshape(-1)


def _fp32(tensor: Tensor) -> np.ndarray:
    return cast(tensor.array(), tensor.dtype, FP32)
