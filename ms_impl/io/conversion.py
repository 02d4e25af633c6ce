"""From one layout to the other, lazily: what each tensor is made of, and whether a checkpoint holds what it must."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ms_impl.errors import InputError, itemised, listed, quote
from ms_impl.families import Family
from ms_impl.io.checkpoint import Checkpoint, open_checkpoint
from ms_impl.io.dtypes import FLOATS, CastLoss, DType, float_named
from ms_impl.io.rules import Config, Entry, Layout, Operation
from ms_impl.io.tensors import CastTensor, Shape, Tensor

logger = logging.getLogger(__name__)

_LAYER_NUMBER = re.compile(r"(?<=\.)\d+(?=\.)")


@dataclass(frozen=True)
class ConvertedTensor(Tensor):
    """Result number ``index`` of the operations of one entry.

    Where there are none, the source streams through; else its entry is assembled in memory, once for each result.
    """

    name: str
    shape: Shape
    dtype: DType
    sources: tuple[Tensor, ...]
    operations: tuple[Operation, ...]
    index: int

    def array(self) -> np.ndarray:
        if not self.operations:
            return self.sources[self.index].array()
        arrays = [source.array() for source in self.sources]
        for operation in self.operations:
            arrays = operation.apply(arrays)
        return arrays[self.index]

    def blocks(self) -> Iterator[np.ndarray]:
        return super().blocks() if self.operations else self.sources[self.index].blocks()


def load_for_mindspore(
    path: str | Path, family: Family, config: Config, dtype: str | None = None
) -> Sequence[ConvertedTensor | CastTensor]:
    """The parameters of a MindSpore model, from a checkpoint of either layout, of any kind, without reading it yet.

    Call ``array()`` of each tensor once, when its turn has come. Where nothing is rearranged or cast, that is the
    file itself, mapped copy-on-write. bfloat16 comes as uint16 bit patterns unless ``dtype`` ("fp32", "fp16") asks
    for another type.

    Raises:
        InputError: the checkpoint is damaged, or does not fit; every fault is listed.
    """
    tensors = for_mindspore(weights_of(open_checkpoint(path), family), family, config)
    return cast_to(tensors, float_named(dtype, "dtype")) if dtype else tensors


def for_mindspore(checkpoint: Checkpoint, family: Family, config: Config) -> list[ConvertedTensor]:
    """As ``load_for_mindspore``, from what ``weights_of`` returned."""
    entries = family.resolve("weights").expand(config)
    return convert(checkpoint, entries, checkpoint.layout or Layout.HUGGING_FACE, Layout.MINDSPORE)


def weights_of(checkpoint: Checkpoint, family: Family, source: str | None = None) -> Checkpoint:
    """The checkpoint without what its table declares harmless; that is counted in a warning.

    Args:
        source: the layout that was named with ``--source``.

    Raises:
        InputError: the checkpoint is of a layout that has to be named.
    """
    if not source:
        _refuse_source(checkpoint, family)
    table = family.source_weights(source) if source else family.resolve("weights")
    skipped = [name for name in checkpoint.tensors if table.is_harmless(name)]
    if not skipped:
        return checkpoint
    logger.warning("%s: skipped %d tensors that are no weights: %s", checkpoint.path, len(skipped), listed(skipped))
    kept = {name: tensor for name, tensor in checkpoint.tensors.items() if not table.is_harmless(name)}
    return replace(checkpoint, tensors=kept)


def _refuse_source(checkpoint: Checkpoint, family: Family) -> None:
    found = {_LAYER_NUMBER.sub("{}", name) for name in checkpoint.tensors}
    for source in family.sources:
        if found & family.source_weights(source).templates():
            raise InputError(
                f"{checkpoint.path}: has the tensor names of {source}; "
                f"convert it with convert/convert_weight.py --source {source}"
            )


def as_hugging_face(checkpoint: Checkpoint, family: Family, config: Config, source: str) -> Checkpoint:
    """The same checkpoint, read by the family's table for ``source``, as one of Hugging Face's layout.

    Raises:
        InputError: the checkpoint does not fit that table; every fault is listed.
    """
    table = family.source_weights(source)
    tensors = convert(checkpoint, table.expand(config), table.layout, Layout.HUGGING_FACE)
    return replace(checkpoint, tensors={tensor.name: tensor for tensor in tensors}, layout=Layout.HUGGING_FACE)


def convert(checkpoint: Checkpoint, entries: Sequence[Entry], source: Layout, target: Layout) -> list[ConvertedTensor]:
    """The tensors of a checkpoint as the layout ``target`` has them, in the order of the entries.

    Raises:
        InputError: listing missing, extra and misshapen tensors and element types that do not do.
    """
    faults = _faults(checkpoint.tensors, entries, source)
    if any(faults):
        raise InputError(f"{checkpoint.path}: the weights do not fit the model:{itemised(*faults)}")
    converted = []
    for entry in entries:
        sources = tuple(checkpoint.tensors[spec.name] for spec in entry.specs[source])
        operations = entry.operations[target] if source != target else ()
        for index, spec in enumerate(entry.specs[target]):
            converted.append(ConvertedTensor(spec.name, spec.shape, sources[0].dtype, sources, operations, index))
    return converted


def cast_to(tensors: Iterable[Tensor], dtype: DType) -> list[CastTensor]:
    """The same tensors in another floating type."""
    return [CastTensor(tensor, dtype, CastLoss()) for tensor in tensors]


def _faults(tensors: Mapping[str, Tensor], entries: Sequence[Entry], layout: Layout) -> tuple[list[str], ...]:
    """What is wrong, by kind."""
    expected = {spec.name: spec.shape for entry in entries for spec in entry.specs[layout]}
    missing = [f"missing: {name} {list(shape)}" for name, shape in expected.items() if name not in tensors]
    extra = [f"extra: {_named(tensor)}" for name, tensor in tensors.items() if name not in expected]
    held = [tensors[name] for name in expected if name in tensors]
    misshapen = [
        f"misshapen: {tensor.name} is {quote(list(tensor.shape))}, expected {list(expected[tensor.name])}"
        for tensor in held
        if tensor.shape != expected[tensor.name]
    ]
    types = [
        f"element type: {tensor.name} is {tensor.dtype}, expected one of {', '.join(FLOATS)}"
        for tensor in held
        if tensor.dtype.name not in FLOATS
    ]
    mixed = []
    for entry in entries:
        found = {spec.name: tensors[spec.name].dtype.name for spec in entry.specs[layout] if spec.name in tensors}
        if len(set(found.values())) > 1:
            mixed.append(f"element types differ among tensors that belong together: {found}")
    return missing, extra, misshapen, types, mixed


def _named(tensor: Tensor) -> str:
    name = tensor.name if len(tensor.name) <= 80 and tensor.name.isprintable() else quote(tensor.name)
    return f"{name} {quote(list(tensor.shape))}"
