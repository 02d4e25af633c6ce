"""What the families hand to the shared rooms: samples, the media in them, and the arrays that media become."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

IGNORED = -100  # the label of a token that is not trained
TOKENS = "tokens"  # the size, and the need, that every family has: columns of a row

Sizes = Mapping[str, int]  # the shape of a batch's rows: ``tokens``, and what the kinds' arrays name


@dataclass(frozen=True)
class ArraySpec:
    """One array of a batch beside the core columns.

    Args:
        dtype: of numpy.
        dims: what follows the batch axis: numbers, and names of sizes that the run decides. The first is the number of
            units that a row has room for.
        padding: what stands in unused places. None: the number of columns of the row, so that a scatter by it falls
            outside.
    """

    name: str
    dtype: type
    dims: tuple[int | str, ...]
    padding: float | None = 0

    def shape(self, sizes: Sizes) -> tuple[int, ...]:
        """``dims`` in numbers."""
        return tuple(dim if isinstance(dim, int) else sizes[dim] for dim in self.dims)


@dataclass(frozen=True)
class MediaKind:
    """One kind of features: the arrays that they are computed from, and the columns that they take.

    ``encode`` names the model's method that takes the ``arrays``, batch axis and first dimension flattened to [N, …],
    to features [N, F, D]. ``columns``, int32 [B, units, F], are those that the features take, in any order.
    """

    name: str
    arrays: tuple[ArraySpec, ...]
    columns: ArraySpec
    encode: str

    @property
    def all_arrays(self) -> tuple[ArraySpec, ...]:
        return *self.arrays, self.columns


@dataclass(frozen=True)
class Placed:
    """One medium of a sample.

    Args:
        kind: the name of its ``MediaKind``.
        source: where it is read from: a path, or what the template can load.
        columns: int32 [n], the columns of the sample (of the row, once packed) that its features take.
        geometry: whole numbers that its header told, enough for ``Template.need``.
        record: how errors name the record that it belongs to.
    """

    kind: str
    source: Any
    columns: np.ndarray
    geometry: tuple[int, ...] = ()
    record: str = ""


@dataclass(frozen=True)
class Sample:
    """An encoded conversation, or a row of several.

    Args:
        input_ids: int32 [t], none negative.
        position_ids: int32 [t], or [axes, t] where the family's positions have several.
        labels: int32 [t], −100 = not trained; None for inference.
        loss_scale: float32 [t], what a label counts beside the weighting of its conversation; None: 1.
        next_position: the position of the token that follows.
        media: in the order of their columns.
        record: how errors name the record.
        answer_tokens: tokens of answers that are trained.
        segment_ids: int32 [t], 1, 2, … for the conversations of a row; None: all 1.
        loss_weights: float32 [t], only of a row: what each label counts.
    """

    input_ids: np.ndarray
    position_ids: np.ndarray
    labels: np.ndarray | None = None
    loss_scale: np.ndarray | None = None
    next_position: int = 0
    media: tuple[Placed, ...] = ()
    record: str = ""
    answer_tokens: int = 0
    segment_ids: np.ndarray | None = field(default=None, repr=False)
    loss_weights: np.ndarray | None = field(default=None, repr=False)

    def __len__(self) -> int:
        return len(self.input_ids)

    @property
    def trained(self) -> np.ndarray:
        """Which tokens are trained: bool [t]."""
        return np.zeros(len(self), bool) if self.labels is None else self.labels != IGNORED

    @property
    def told_columns(self) -> np.ndarray:
        """int64: the columns of a sample as people are shown it: of a medium whose tokens are all alike, the first."""
        told = np.ones(len(self), bool)
        for columns in (medium.columns.reshape(-1) for medium in self.media):
            told[columns[1:]] &= len(np.unique(self.input_ids[columns])) > 1
        return np.flatnonzero(told)

    @property
    def outline(self) -> Outline:
        return Outline(len(self), tuple((each.kind, each.geometry) for each in self.media))


@dataclass(frozen=True)
class Outline:
    """All that a plan needs to know of a sample: its tokens, and kind and geometry of its media."""

    tokens: int
    media: tuple[tuple[str, tuple[int, ...]], ...] = ()
