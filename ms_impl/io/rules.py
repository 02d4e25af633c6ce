"""The declared weight table of a family, and what can happen to a tensor on the way, each with its inverse.

A table is data: rows of Hugging Face names with their shapes, our names where they differ, and the operations, if any,
that lead from the one to the other. ``*`` in a name stands for the number of a layer, so that a layer is said once; a
shape is written in words, which the family's ``sizes`` puts into numbers. ``WeightTable.expand`` makes it concrete for
a configuration, and everything else (both directions, the shape check, the tests) reads the expanded entries.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from itertools import groupby
from typing import Any

import numpy as np

from ms_impl.errors import InputError, quote
from ms_impl.io.tensors import Shape

Config = Any  # a family's own configuration class
Arrays = list[np.ndarray]
Sizes = Mapping[str, int]  # what the words in shapes mean for a configuration
Words = str | tuple[int, ...]  # sizes: words and numbers with spaces between them, or numbers
MAX_REPEATS = 10_000  # of one layer; more is a wrong number, not a model

# Whose names and layouts tensors have. A family may have further layouts, which are only ever read: their names are
# what ``--source`` calls them.
HUGGING_FACE = "Hugging Face"
MINDSPORE = "MindSpore"

# What MindSpore and MindFormers save of a run beside the weights.
MINDSPORE_COUNTERS = (
    "global_step", "step_num", "epoch_num", "batch_num", "learning_rate", "lr", "loss_scale", "scale_sense",
    "beta1_power", "beta2_power", "current_iterator_step", "last_overflow_iterator_step",
)  # fmt: skip

_LAYER = ".*."
_NUMBER = re.compile(r"(?<=\.)\d+(?=\.)", re.ASCII)


def in_numbers(words: Words, sizes: Sizes) -> tuple[int, ...]:
    """Sizes in numbers. Raises ValueError for a word that the family's sizes do not have."""
    if not isinstance(words, str):
        return words
    try:
        return tuple(int(word) if word.lstrip("-").isdigit() else sizes[word] for word in words.split())
    except KeyError as error:
        raise ValueError(f"the weight table has a size that is not declared: {error}") from error


class Operation(ABC):
    """Turns a list of arrays into another, losing nothing."""

    def bind(self, sizes: Sizes) -> Operation:
        """The same operation with its sizes in numbers."""
        return self

    @abstractmethod
    def shapes(self, before: list[Shape]) -> list[Shape]:
        """The shapes that come out when ``before`` go in."""

    @abstractmethod
    def apply(self, arrays: Arrays) -> Arrays:
        """Do it. The results may be views."""

    @abstractmethod
    def inverse(self, before: list[Shape]) -> Operation:
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

    rows: Words

    def bind(self, sizes: Sizes) -> Operation:
        return Unpack(in_numbers(self.rows, sizes))

    def shapes(self, before: list[Shape]) -> list[Shape]:
        return [(rows, *before[0][1:]) for rows in _bound(self.rows)]

    def apply(self, arrays: Arrays) -> Arrays:
        return np.split(arrays[0], np.cumsum(_bound(self.rows)[:-1]))

    def inverse(self, before: list[Shape]) -> Operation:
        return Pack()


@dataclass(frozen=True)
class PermuteRows(Operation):
    """Axis 0, seen as the axes ``split``, has them put into ``order``: heads, or what lies inside a head.

    [Q|K|V] packed per head becomes three blocks by split "heads 3 head_dim", order (1, 0, 2); interleaved rotary pairs
    become halves by split "heads half 2", order (0, 2, 1). One size may be -1: whatever is left.
    """

    split: Words
    order: tuple[int, ...]

    def bind(self, sizes: Sizes) -> Operation:
        return replace(self, split=in_numbers(self.split, sizes))

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


def _bound(words: Words) -> tuple[int, ...]:
    """The sizes of an operation after ``bind``."""
    assert not isinstance(words, str)
    return words


@dataclass(frozen=True)
class Weight:
    """One row of a table: Hugging Face's names and their shapes, ours, and the operations that lead to ours.

    In the table of another layout, ``ours`` are that one's names.
    """

    names: tuple[str, ...]
    shapes: tuple[str, ...]
    ours: tuple[str, ...]
    operations: tuple[Operation, ...] = ()

    @property
    def layer(self) -> str:
        """The path before the number of the layer; "" for a tensor that is there once."""
        path, star, _ = self.names[0].partition(_LAYER)
        return path if star else ""


def same(path: str, shapes: Mapping[str, str]) -> list[Weight]:
    """Tensors below ``path`` that keep their names and layouts: shapes by name."""
    return moved(path, path, {name: (name, shape) for name, shape in shapes.items()})


def moved(path: str, ours: str, weights: Mapping[str, tuple[str, str]], *operations: Operation) -> list[Weight]:
    """Tensors below ``path`` that have other names below the path ``ours``: by name, ours and the shape.

    ``operations``, if any, lead each of them to our layout.
    """
    return [
        Weight((_join(path, name),), (shape,), (_join(ours, new),), operations)
        for name, (new, shape) in weights.items()
    ]


def linear(name: str, outputs: str, inputs: str) -> dict[str, str]:
    """Shapes of a linear layer with a bias, for ``same``."""
    return {f"{name}.weight": f"{outputs} {inputs}", f"{name}.bias": outputs}


def layer_norm(name: str, width: str) -> dict[str, str]:
    """Shapes of a norm with a bias, for ``same``."""
    return {f"{name}.weight": width, f"{name}.bias": width}


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


@dataclass(frozen=True)
class Tie:
    """A tensor that is another one, used twice, ``when`` the configuration says so. It need not be stored then."""

    to: str
    when: Callable[[Config], bool]


@dataclass(frozen=True)
class Spec:
    """What one tensor is to be."""

    name: str
    shape: Shape


@dataclass(frozen=True)
class Entry:
    """Tensors that belong together: what they are in either layout, and the operations that lead to either.

    ``copies`` are names of Hugging Face's that may hold the same values once more: of a tie.
    """

    specs: Mapping[str, tuple[Spec, ...]]
    operations: Mapping[str, tuple[Operation, ...]]
    copies: tuple[str, ...] = ()


@dataclass(frozen=True)
class WeightTable:
    """All weights of a family: from Hugging Face's names and layout to those of ``layout``.

    Attributes:
        sizes: the words of the shapes in numbers, for a configuration.
        layers: by the path before a ``*``, how many layers there are: a word of ``sizes``.
        optional: names that a model has only where the configuration says so.
        ties: tensors that may be another one, by name.
        prefix: what Hugging Face's names begin with, for a configuration. The rows are written without it.
        harmless: patterns of names in either layout that checkpoints may have beside the weights, and that no model
            needs.
        skipped: patterns of Hugging Face's names that belong to parts of the model which are not built here.
    """

    weights: Sequence[Weight]
    sizes: Callable[[Config], Sizes]
    layers: Mapping[str, str] = field(default_factory=dict)
    optional: Mapping[str, Callable[[Config], bool]] = field(default_factory=dict)
    ties: Mapping[str, Tie] = field(default_factory=dict)
    prefix: Callable[[Config], str] = lambda config: ""
    layout: str = MINDSPORE
    harmless: tuple[str, ...] = MINDSPORE_COUNTERS
    skipped: tuple[str, ...] = ()

    def is_harmless(self, name: str) -> bool:
        """Whether a tensor of that name is no weight, but may stand among them."""
        return any(fnmatchcase(name, pattern) for pattern in self.harmless)

    def is_skipped(self, name: str) -> bool:
        """Whether a tensor of that name belongs to a part of the model that is not built here."""
        return any(fnmatchcase(name, pattern) for pattern in self.skipped)

    def expand(self, config: Config) -> list[Entry]:
        """Every tensor of the model that ``config`` describes, layer after layer."""
        sizes, prefix = self.sizes(config), self.prefix(config)
        entries = [self._entry(weight, number, sizes, prefix, config) for weight, number in self._rows(config, sizes)]
        for layout in (HUGGING_FACE, self.layout):
            times = Counter(spec.name for entry in entries for spec in entry.specs[layout])
            if repeated := [name for name, count in times.items() if count > 1]:
                raise ValueError(f"the weight table has {layout} names more than once: {repeated}")
        return entries

    def shapes(self, config: Config, layout: str) -> dict[str, Shape]:
        """Name and shape of every tensor in a layout, in the order of the table."""
        return {spec.name: spec.shape for entry in self.expand(config) for spec in entry.specs[layout]}

    def knows_any(self, names: Iterable[str]) -> bool:
        """Whether ``layout`` has a name like one of these, for whatever layer."""
        known = {_NUMBER.sub("*", name) for weight in self.weights for name in weight.ours}
        return any(_NUMBER.sub("*", name) in known for name in names)

    def _rows(self, config: Config, sizes: Sizes) -> Iterator[tuple[Weight, int]]:
        """The rows that ``config`` has, each with the number of its layer."""
        absent = {name for name, there in self.optional.items() if not there(config)}
        absent |= {name for name, tie in self.ties.items() if tie.when(config)}
        for layer, rows in groupby(self.weights, key=lambda weight: weight.layer):
            weights = [weight for weight in rows if absent.isdisjoint(weight.names)]
            for number in range(self._count(layer, sizes)):
                yield from ((weight, number) for weight in weights)

    def _count(self, layer: str, sizes: Sizes) -> int:
        count = sizes[self.layers[layer]] if layer else 1
        if count > MAX_REPEATS:
            raise InputError(f"{layer}: the configuration asks for {quote(count)} of it; the limit is {MAX_REPEATS:,}")
        return count

    def _entry(self, weight: Weight, number: int, sizes: Sizes, prefix: str, config: Config) -> Entry:
        shapes = [in_numbers(shape, sizes) for shape in weight.shapes]
        theirs = tuple(
            Spec(prefix + _numbered(name, number), shape) for name, shape in zip(weight.names, shapes, strict=True)
        )
        forward: list[Operation] = []
        backward: list[Operation] = []
        for operation in weight.operations:
            bound = operation.bind(sizes)
            forward.append(bound)
            backward.insert(0, bound.inverse(shapes))
            shapes = bound.shapes(shapes)
        ours = tuple(Spec(_numbered(name, number), shape) for name, shape in zip(weight.ours, shapes, strict=True))
        return Entry(
            specs={HUGGING_FACE: theirs, self.layout: ours},
            operations={HUGGING_FACE: tuple(backward), self.layout: tuple(forward)},
            copies=tuple(
                prefix + name for name, tie in self.ties.items() if tie.to in weight.names and tie.when(config)
            ),
        )


def _numbered(name: str, number: int) -> str:
    return name.replace(_LAYER, f".{number}.")
