"""From one layout to the other, lazily: what each tensor is made of, and whether a checkpoint holds what it must."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np

from ms_impl.errors import InputError, itemised, listed, quote
from ms_impl.families import Family
from ms_impl.io.checkpoint import Checkpoint, open_checkpoint
from ms_impl.io.dtypes import FLOATS, CastLoss, DType, float_named
from ms_impl.io.rules import HUGGING_FACE, MINDSPORE, Config, Entry, Operation
from ms_impl.io.tensors import CastTensor, CheckpointTensor, Shape

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ConvertedTensor(CheckpointTensor):
    """Result number ``index`` of the operations of one entry.

    Where there are none, the source streams through; else its entry is assembled in memory, once for each result.
    """

    name: str
    shape: Shape
    dtype: DType
    sources: tuple[CheckpointTensor, ...]
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
    return convert(checkpoint, entries, checkpoint.layout or HUGGING_FACE, MINDSPORE)


def weights_of(checkpoint: Checkpoint, family: Family, source: str | None = None) -> Checkpoint:
    """The checkpoint without what its table declares harmless or skipped; that is counted in the log.

    Args:
        source: the layout that was named with ``--source``.

    Raises:
        InputError: the checkpoint is of a layout that has to be named.
    """
    if not source:
        _refuse_source(checkpoint, family)
    table = family.source_weights(source) if source else family.resolve("weights")
    harmless = [name for name in checkpoint.tensors if table.is_harmless(name)]
    skipped = {name: tensor for name, tensor in checkpoint.tensors.items() if table.is_skipped(name)}
    if harmless:
        logger.warning(
            "%s: skipped %d tensors that are not weights: %s", checkpoint.path, len(harmless), listed(harmless)
        )
    if skipped:
        logger.info("%s: skipped %s", checkpoint.path, "; ".join(skipped_parts(skipped, table.skipped)))
    kept = {name: tensor for name, tensor in checkpoint.tensors.items() if name not in {*harmless, *skipped}}
    return replace(checkpoint, tensors=kept, skipped=skipped) if harmless or skipped else checkpoint


def skipped_parts(skipped: Mapping[str, CheckpointTensor], patterns: Sequence[str]) -> list[str]:
    """What of a checkpoint belongs to parts of the model that are not built here: a line for each of the patterns."""
    found = {
        pattern: [tensor for name, tensor in skipped.items() if fnmatchcase(name, pattern)] for pattern in patterns
    }
    return [
        f"{len(tensors):,} tensors {pattern} ({sum(tensor.nbytes for tensor in tensors):,} bytes)"
        for pattern, tensors in found.items()
        if tensors
    ]


def _refuse_source(checkpoint: Checkpoint, family: Family) -> None:
    for source in family.sources:
        if family.source_weights(source).knows_any(checkpoint.tensors):
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
    tensors = convert(checkpoint, table.expand(config), table.layout, HUGGING_FACE)
    return replace(checkpoint, tensors={tensor.name: tensor for tensor in tensors}, layout=HUGGING_FACE)


def convert(checkpoint: Checkpoint, entries: Sequence[Entry], source: str, target: str) -> list[ConvertedTensor]:
    """The tensors of a checkpoint as the layout ``target`` has them, in the order of the entries.

    Raises:
        InputError: listing missing tensors, extra ones, wrong shapes and element types.
    """
    _refuse(checkpoint, *_faults(checkpoint.tensors, entries, source), _differing(checkpoint.tensors, entries, source))
    converted = []
    for entry in entries:
        sources = tuple(checkpoint.tensors[spec.name] for spec in entry.specs[source])
        operations = entry.operations[target] if source != target else ()
        for index, spec in enumerate(entry.specs[target]):
            converted.append(ConvertedTensor(spec.name, spec.shape, sources[0].dtype, sources, operations, index))
    return converted


def check_headers(checkpoint: Checkpoint, entries: Sequence[Entry], layout: str) -> None:
    """Names, shapes and types are those of the model; no value is read.

    Raises:
        InputError: listing missing tensors, extra ones, wrong shapes and element types.
    """
    _refuse(checkpoint, *_faults(checkpoint.tensors, entries, layout))


def cast_to(tensors: Iterable[CheckpointTensor], dtype: DType) -> list[CastTensor]:
    """The same tensors in another floating type."""
    return [CastTensor(tensor, dtype, CastLoss()) for tensor in tensors]


def _refuse(checkpoint: Checkpoint, *faults: list[str]) -> None:
    if any(faults):
        raise InputError(f"{checkpoint.path}: the weights do not fit the model:{itemised(*faults)}")


def _faults(tensors: Mapping[str, CheckpointTensor], entries: Sequence[Entry], layout: str) -> tuple[list[str], ...]:
    """What headers tell is wrong, by kind."""
    expected = {spec.name: spec.shape for entry in entries for spec in entry.specs[layout]}
    copies = {name for entry in entries for name in entry.copies}
    missing = [f"missing: {name} {list(shape)}" for name, shape in expected.items() if name not in tensors]
    extra = [f"extra: {_named(tensor)}" for name, tensor in tensors.items() if name not in {*expected, *copies}]
    held = [tensors[name] for name in expected if name in tensors]
    wrong_shapes = [
        f"wrong shape: {tensor.name} is {quote(list(tensor.shape))}, expected {list(expected[tensor.name])}"
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
    return missing, extra, wrong_shapes, types, mixed


def _differing(tensors: Mapping[str, CheckpointTensor], entries: Sequence[Entry], layout: str) -> list[str]:
    """Copies of a tied tensor that are none."""
    copies = {name: entry.specs[layout][0].name for entry in entries for name in entry.copies if name in tensors}
    return [
        f"tied: {name} differs from {other}, although the configuration ties them"
        for name, other in copies.items()
        if other in tensors and not _equal(tensors[name], tensors[other])
    ]


def _equal(one: CheckpointTensor, other: CheckpointTensor) -> bool:
    """Whether two tensors are the same, bit by bit."""
    if (one.shape, one.dtype) != (other.shape, other.dtype):
        return False
    return all(map(np.array_equal, map(_bits, one.blocks()), map(_bits, other.blocks())))


def _bits(block: np.ndarray) -> np.ndarray:
    return block.view(np.uint8)


def _named(tensor: CheckpointTensor) -> str:
    name = tensor.name if len(tensor.name) <= 80 and tensor.name.isprintable() else quote(tensor.name)
    return f"{name} {quote(list(tensor.shape))}"
