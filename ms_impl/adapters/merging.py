"""A base with an adapter merged into it, as PEFT's ``merge_and_unload`` gives it on a CPU."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache

import numpy as np

from ms_impl.adapters import base_check
from ms_impl.adapters.files import AdapterFiles, renamed
from ms_impl.adapters.targets import EMBEDDING_A, EMBEDDING_B, FACTOR_A, FACTOR_B, AdapterPlan, linear_layers, make_plan
from ms_impl.errors import InputError
from ms_impl.families import Family
from ms_impl.io.checkpoint import Checkpoint
from ms_impl.io.conversion import convert
from ms_impl.io.dtypes import FP32, CastLoss, DType, cast
from ms_impl.io.rules import HUGGING_FACE, Config
from ms_impl.io.tensors import BLOCK_BYTES, CastTensor, CheckpointTensor, Shape

_PROBED_ROWS = 24


@dataclass(frozen=True)
class MergedTensor(CheckpointTensor):
    """W + scaling · B·A in fp32, computed a few rows at a time.

    Each element's products are summed in order, with fused multiplications, as torch does for r up to 192.

    Attributes:
        weight: W [out, in].
        a, b: A [r, in] and B [out, r].
        rounded: to what the update is rounded before it is added; None: it stays fp32.

    Raises:
        InputError: when it is read, and a sum is not finite though W is.
    """

    weight: CheckpointTensor
    a: CheckpointTensor
    b: CheckpointTensor
    scaling: float
    rounded: DType | None = None
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
        weight, (a, b) = self.weight.array(), self._factors()
        rows, columns = self.shape
        step = max(1, BLOCK_BYTES // (columns * FP32.itemsize))
        for start in range(0, rows, step):
            part = slice(start, start + step)
            base = cast(weight[part], self.weight.dtype, FP32)
            with np.errstate(over="ignore", invalid="ignore"):
                merged = base + self._rounded(_product(b, a, part) * np.float32(self.scaling))
            self._refuse_infinite(merged, base)
            yield merged.reshape(-1)

    def _factors(self) -> tuple[np.ndarray, np.ndarray]:
        """A and B in fp32, as [r, in] and [out, r]."""
        return _fp32(self.a), _fp32(self.b)

    def _rounded(self, update: np.ndarray) -> np.ndarray:
        return cast(cast(update, FP32, self.rounded), self.rounded, FP32) if self.rounded else update

    def _refuse_infinite(self, merged: np.ndarray, base: np.ndarray) -> None:
        lost = np.count_nonzero(~np.isfinite(merged)) - np.count_nonzero(~np.isfinite(base))
        if lost:
            raise InputError(
                f"{self.name}: {lost:,} values are not finite after merging: the adapter's values or its scaling, "
                f"{self.scaling:g}, are too large"
            )


class MergedEmbedding(MergedTensor):
    """W + scaling · (B·A)ᵀ, with W [vocabulary, width], A [r, vocabulary] and B [width, r]."""

    def _factors(self) -> tuple[np.ndarray, np.ndarray]:
        return np.ascontiguousarray(_fp32(self.b).T), np.ascontiguousarray(_fp32(self.a).T)


def merged_checkpoint(
    source: Checkpoint, adapter: AdapterFiles, family: Family, config: Config, dtype: DType | None = None
) -> Checkpoint:
    """A checkpoint of either layout with an adapter merged into it, in Hugging Face's layout.

    Nothing is written. The adapter is read; of the base, as much as a check of what it is takes.

    Args:
        dtype: of its tensors; None: the base's.

    Raises:
        InputError: the adapter does not fit the base, or has values that are not finite.
    """
    table, layout = family.resolve("weights"), source.layout or HUGGING_FACE
    converted, prefix = convert(source, table.expand(config), layout, HUGGING_FACE), table.prefix(config)
    tensors = {tensor.name.removeprefix(prefix): tensor for tensor in converted}  # by our names
    shapes = {name: tensor.shape for name, tensor in tensors.items()}
    linears = linear_layers(shapes, family)
    plan = make_plan(adapter.config, family, shapes, linears, adapter.tensors.keys(), adapter.prefix)
    brought = adapter.check(plan, shapes)
    base_check.check(adapter.base, tensors, str(adapter), str(source.path))
    adapter.check_values()
    replaced = {name: adapter.tensors[name] for name in plan.whole} | brought
    merged = {}
    for name, tensor in tensors.items():
        target = dtype or tensor.dtype
        kept = _as_type(renamed(replaced[name], tensor.name), target) if name in replaced else tensor
        merged[tensor.name] = _as_type(_merged(name, kept, adapter, plan, tensor.dtype), target)
    return replace(source, tensors=merged, layout=HUGGING_FACE)


def _merged(
    name: str, tensor: CheckpointTensor, adapter: AdapterFiles, plan: AdapterPlan, base_dtype: DType
) -> CheckpointTensor:
    """A tensor with its update, if it has one; PEFT rounds that of an embedding before it is added."""
    module, stored = name.removesuffix(".weight"), adapter.tensors
    if module not in plan.adapted:
        return tensor
    layer = plan.adapted[module]
    if layer.embedding:
        a, b = stored[module + EMBEDDING_A], stored[module + EMBEDDING_B]
        return MergedEmbedding(tensor, a, b, layer.scaling, base_dtype)
    return MergedTensor(tensor, stored[module + FACTOR_A], stored[module + FACTOR_B], layer.scaling)


def _as_type(tensor: CheckpointTensor, dtype: DType) -> CheckpointTensor:
    return tensor if tensor.dtype == dtype else CastTensor(tensor, dtype, CastLoss())


def _product(b: np.ndarray, a: np.ndarray, part: slice) -> np.ndarray:
    """The rows ``part`` of B·A, each element's products summed in order, with fused multiplications."""
    first, last, _ = part.indices(len(b))
    if _sums_in_order(*a.shape):
        return _rows(b, a, first, last)
    return np.concatenate([_rows(b, a, start, min(start + 2, last)) for start in range(first, last, 2)])


def _rows(b: np.ndarray, a: np.ndarray, first: int, last: int) -> np.ndarray:
    """Some rows of B·A. A row alone would be summed in another order."""
    begin = max(0, min(first, last - 2))
    return (b[begin:last] @ a)[first - begin :]


@cache
def _sums_in_order(r: int, columns: int) -> bool:
    """Whether the BLAS of this machine does, for any number of rows.

    OpenBLAS's kernels for processors without AVX-512 do not at the edges of their tiles. Two rows have no such edge.
    """
    generator = np.random.default_rng(0)
    b, a = (generator.normal(size=shape).astype(np.float32) for shape in ((_PROBED_ROWS, r), (r, columns)))
    found = np.zeros((_PROBED_ROWS, columns), np.float32)
    for column, row in zip(b.T.astype(np.float64), a.astype(np.float64), strict=True):
        found = (found + np.outer(column, row)).astype(np.float32)  # as fused as float64 can
    return np.array_equal(found, b @ a)


def _fp32(tensor: CheckpointTensor) -> np.ndarray:
    return cast(tensor.array(), tensor.dtype, FP32)
