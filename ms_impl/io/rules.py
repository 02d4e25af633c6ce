"""The declared weight table of a family, and what can happen to a tensor on the way, each with its inverse.

A table is data. It lists modules; a module lists weights by Hugging Face name, shape and MindSpore name; a weight
lists the operations, if any, that lead from the one to the other. ``WeightTable.expand`` makes it concrete for a
configuration, and everything else (both directions, the shape check, the tests) reads the expanded entries.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from fnmatch import fnmatchcase
from typing import Any

import numpy as np

from ms_impl.errors import InputError, quote
from ms_impl.io.tensors import Shape

Config = Any  # a family's own configuration class
Arrays = list[np.ndarray]
MAX_REPEATS = 10_000  # of one module; more is a wrong number, not a model
PerConfig = Callable[[Config], tuple[int, ...]]  # a shape, or other sizes, as a function of the configuration
Sizes = tuple[int, ...] | PerConfig


# What MindSpore and MindFormers save of a run beside the weights.
MINDSPORE_COUNTERS = (
    "global_step", "step_num", "epoch_num", "batch_num", "learning_rate", "lr", "loss_scale", "scale_sense",
    "beta1_power", "beta2_power", "current_iterator_step", "last_overflow_iterator_step",
)  # fmt: skip


class Layout(Enum):
    """Whose names and layouts tensors have.

    The values of the first two are what stands in a safetensors file's metadata. The others are only ever read, and
    their values are what ``--source`` calls them.
    """

    HUGGING_FACE = "pt"
    MINDSPORE = "ms"
    MINDFORMERS_1_5 = "mindformers-1.5"

    def __str__(self) -> str:
        return {"pt": "Hugging Face", "ms": "MindSpore", "mindformers-1.5": "MindFormers 1.5"}[self.value]


class Operation(ABC):
    """Turns a list of arrays into another, losing nothing."""

    def bind(self, config: Config) -> "Operation":
        """The same operation with its sizes fixed."""
        return self

    @abstractmethod
    def shapes(self, before: list[Shape]) -> list[Shape]:
        """The shapes that come out when ``before`` go in."""

    @abstractmethod
    def apply(self, arrays: Arrays) -> Arrays:
        """Do it. The results may be views."""

    @abstractmethod
    def inverse(self, before: list[Shape]) -> "Operation":
        """What undoes it on arrays that had the shapes ``before``."""


@dataclass(frozen=True)
class Transpose(Operation):
    """Matrices [a, b] become [b, a]."""

    def shapes(self, before: list[Shape]) -> list[Shape]:
        return [shape[::-1] for shape in before]

    def apply(self, arrays: Arrays) -> Arrays:
        return [array.T for array in arrays]

    def inverse(self, before: list[Shape]) -> Operation:
        return self


@dataclass(frozen=True)
class Pack(Operation):
    """Several tensors become one, joined along axis 0."""

    def shapes(self, before: list[Shape]) -> list[Shape]:
        return [(sum(shape[0] for shape in before), *before[0][1:])]

    def apply(self, arrays: Arrays) -> Arrays:
        return [np.concatenate(arrays)]

    def inverse(self, before: list[Shape]) -> Operation:
        return Unpack(tuple(shape[0] for shape in before))


@dataclass(frozen=True)
class Unpack(Operation):
    """One tensor becomes several, cut along axis 0 into parts of ``rows``."""

    rows: Sizes

    def bind(self, config: Config) -> Operation:
        return Unpack(_fixed(self.rows, config))

    def shapes(self, before: list[Shape]) -> list[Shape]:
        return [(rows, *before[0][1:]) for rows in _bound(self.rows)]

    def apply(self, arrays: Arrays) -> Arrays:
        return np.split(arrays[0], np.cumsum(_bound(self.rows)[:-1]))

    def inverse(self, before: list[Shape]) -> Operation:
        return Pack()


@dataclass(frozen=True)
class PermuteRows(Operation):
    """Axis 0, seen as the axes ``split``, has them put into ``order``: heads, or what lies inside a head.

    [Q|K|V] packed per head becomes three blocks by split (heads, 3, head_dim), order (1, 0, 2); interleaved rotary
    pairs become halves by split (heads, head_dim / 2, 2), order (0, 2, 1). One size may be -1: whatever is left.
    """

    split: Sizes
    order: tuple[int, ...]

    def bind(self, config: Config) -> Operation:
        return replace(self, split=_fixed(self.split, config))

    def shapes(self, before: list[Shape]) -> list[Shape]:
        return before

    def apply(self, arrays: Arrays) -> Arrays:
        return [self._permute(array) for array in arrays]

    def inverse(self, before: list[Shape]) -> Operation:
        split = tuple(_bound(self.split)[axis] for axis in self.order)
        return PermuteRows(split, tuple(int(axis) for axis in np.argsort(self.order)))

    def _permute(self, array: np.ndarray) -> np.ndarray:
        columns = range(len(self.order), len(self.order) + array.ndim - 1)
        rows = array.reshape(*_bound(self.split), *array.shape[1:])
        return rows.transpose(*self.order, *columns).reshape(array.shape)


@dataclass(frozen=True)
class Spec:
    """What one tensor is to be."""

    name: str
    shape: Shape


@dataclass(frozen=True)
class Entry:
    """Tensors that belong together: what they are in either layout, and the operations that lead to either."""

    specs: Mapping[Layout, tuple[Spec, ...]]
    operations: Mapping[Layout, tuple[Operation, ...]]


@dataclass(frozen=True)
class Weight:
    """One row of a table: names inside the module, a shape for each Hugging Face name, operations to MindSpore.

    ``ms`` are the MindSpore names, or, in the table of another layout, that one's.
    """

    hf: tuple[str, ...]
    shapes: tuple[PerConfig, ...]
    ms: tuple[str, ...]
    operations: tuple[Operation, ...] = ()


def same(name: str, shape: PerConfig) -> Weight:
    """A tensor that keeps its name and layout."""
    return Weight((name,), (shape,), (name,))


def rename(hf: str, ms: str, shape: PerConfig, *operations: Operation) -> Weight:
    """A tensor with another name, and another layout where operations are given."""
    return Weight((hf,), (shape,), (ms,), operations)


@dataclass(frozen=True)
class Module:
    """The weights below one Hugging Face module path; a ``{}`` in it stands for the numbers below ``count``.

    ``ms`` is the path in MindSpore where it differs.
    """

    hf: str
    weights: Sequence[Weight]
    count: Callable[[Config], int] = lambda config: 1
    ms: str | None = None

    def paths(self, config: Config) -> list[tuple[str, str]]:
        """The Hugging Face and the MindSpore path of every repetition."""
        ms = self.hf if self.ms is None else self.ms
        count = self.count(config)
        if count > MAX_REPEATS:
            raise InputError(
                f"{self.hf}: the configuration asks for {quote(count)} of it; the limit is {MAX_REPEATS:,}"
            )
        return [(self.hf.format(number), ms.format(number)) for number in range(count)]


@dataclass(frozen=True)
class WeightTable:
    """All weights of a family: from Hugging Face's names and layout to those of ``layout``.

    ``harmless`` are patterns of names in either layout that checkpoints may have beside them and that no model needs.
    """

    modules: Sequence[Module]
    layout: Layout = Layout.MINDSPORE
    harmless: tuple[str, ...] = MINDSPORE_COUNTERS

    def is_harmless(self, name: str) -> bool:
        """Whether a tensor of that name is no weight, but may stand among them."""
        return any(fnmatchcase(name, pattern) for pattern in self.harmless)

    def expand(self, config: Config) -> list[Entry]:
        """Every tensor of the model that ``config`` describes."""
        entries = [
            _entry(weight, hf, ms, config, self.layout)
            for module in self.modules
            for hf, ms in module.paths(config)
            for weight in module.weights
        ]
        for layout in (Layout.HUGGING_FACE, self.layout):
            times = Counter(spec.name for entry in entries for spec in entry.specs[layout])
            if repeated := [name for name, count in times.items() if count > 1]:
                raise ValueError(f"the weight table has {layout} names more than once: {repeated}")
        return entries

    def shapes(self, config: Config, layout: Layout) -> dict[str, Shape]:
        """Name and shape of every tensor in a layout, in the order of the table."""
        return {spec.name: spec.shape for entry in self.expand(config) for spec in entry.specs[layout]}

    def templates(self) -> set[str]:
        """Every name of ``layout``, ``{}`` standing for the number of a layer."""
        return {
            _join(module.hf if module.ms is None else module.ms, name)
            for module in self.modules
            for weight in module.weights
            for name in weight.ms
        }

    def module_paths(self, config: Config) -> dict[str, str]:
        """The MindSpore path of every Hugging Face module in the table, for comparing them one by one."""
        return dict(pair for module in self.modules for pair in module.paths(config))


def _entry(weight: Weight, hf_path: str, ms_path: str, config: Config, layout: Layout) -> Entry:
    shapes = [tuple(shape(config)) for shape in weight.shapes]
    hf = [Spec(_join(hf_path, name), shape) for name, shape in zip(weight.hf, shapes, strict=True)]
    forward: list[Operation] = []
    backward: list[Operation] = []
    for operation in weight.operations:
        bound = operation.bind(config)
        forward.append(bound)
        backward.insert(0, bound.inverse(shapes))
        shapes = bound.shapes(shapes)
    ms = [Spec(_join(ms_path, name), shape) for name, shape in zip(weight.ms, shapes, strict=True)]
    return Entry(
        specs={Layout.HUGGING_FACE: tuple(hf), layout: tuple(ms)},
        operations={Layout.HUGGING_FACE: tuple(backward), layout: tuple(forward)},
    )


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _fixed(sizes: Sizes, config: Config) -> tuple[int, ...]:
    return tuple(sizes(config)) if callable(sizes) else sizes


def _bound(sizes: Sizes) -> tuple[int, ...]:
    """The sizes of an operation after ``bind``."""
    assert not callable(sizes)
    return sizes
