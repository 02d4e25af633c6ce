"""Media of a batch → features and the columns that they take, by the model's own methods, in compiled graphs."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from mindspore import nn

from ms_impl.data.sample import MediaKind
from ms_impl.generate.encoders import Encoder, encoder, padded

UNITS_AT_ONCE, FEATURES_AT_ONCE = 8, 2048  # what attends together needs memory for the square of its length

Batch = Mapping[str, np.ndarray | None]


def power_of_two(number: int) -> int:
    """The smallest power of two that is not below ``number``."""
    return 1 << (number - 1).bit_length()


def units_at_once(features: int) -> int:
    """How many units of so many features are encoded together: a power of two."""
    return min(UNITS_AT_ONCE, power_of_two(max(FEATURES_AT_ONCE // features, 1) + 1) // 2)


@dataclass(frozen=True)
class Features:
    """Features float32 [F, D] of a whole batch, and the row and column of each, int [F]."""

    values: np.ndarray
    rows: np.ndarray
    columns: np.ndarray

    def within(self, start: int, stop: int, rows: int) -> tuple[np.ndarray, np.ndarray] | None:
        """Those of the columns from ``start`` to ``stop``; None: there are none.

        Always as many, so that the graphs that take them have few shapes: float32 [rows, width, D], and the columns
        int32 [rows, 1, width], counted from ``start``, that they take; ``width`` stands for none.
        """
        here = np.flatnonzero((start <= self.columns) & (self.columns < stop))
        if not len(here):
            return None
        width = stop - start
        values = np.zeros((rows, width, self.values.shape[-1]), np.float32)
        columns = np.full((rows, 1, width), width, np.int32)
        row, column = self.rows[here], self.columns[here] - start
        values[row, column], columns[row, 0, column] = self.values[here], column
        return values, columns


class KeptFeatures:
    """The features of units that were encoded lately, by what they were computed from. The weights must not change.

    Args:
        room: bytes of features; those not used for longest give way.
    """

    def __init__(self, room: int):
        self.room = room
        self.used = self.hits = 0
        self._kept: OrderedDict[bytes, np.ndarray] = OrderedDict()

    def get(self, name: bytes) -> np.ndarray | None:
        """Features [F, D] by a name of ``unit_name``."""
        if (found := self._kept.get(name)) is not None:
            self._kept.move_to_end(name)
            self.hits += 1
        return found

    def put(self, name: bytes, features: np.ndarray) -> None:
        """Keep features [F, D]."""
        if name in self._kept:
            return
        self._kept[name] = np.array(features)  # a copy: a view would hold all of its batch
        self.used += features.nbytes
        while self.used > self.room:
            self.used -= self._kept.popitem(last=False)[1].nbytes


def unit_name(encode: str, arrays: Sequence[np.ndarray]) -> bytes:
    """A digest of the arrays of one unit, and of the method that encodes them."""
    digest = hashlib.blake2b(digest_size=20)
    for array in arrays:
        digest.update(f"{encode} {array.dtype} {array.shape} ".encode())
        digest.update(np.ascontiguousarray(array))
    return digest.digest()


class FeatureEncoder:
    """Encodes the media of batches; only what is present, in few batch sizes.

    ``kept``: where features are looked for before they are computed, and then one unit at a time; None: nowhere.
    """

    def __init__(self, model: nn.Cell):
        self.model = model
        self.encoders: dict[str, Encoder] = {}
        self.kept: KeptFeatures | None = None

    def __call__(self, batch: Batch, kinds: Sequence[MediaKind], length: int) -> Features | None:
        """The features of a batch of rows of ``length`` columns; None where it has no media.

        Raises:
            ValueError: two features stand at one column.
        """
        found = [features for kind in kinds if (features := self._of_kind(batch, kind, length))]
        if not found:
            return None
        values, rows, columns = (
            np.concatenate([getattr(each, name) for each in found]) for name in ("values", "rows", "columns")
        )
        if len(np.unique(rows.astype(np.int64) * length + columns)) < len(rows):
            raise ValueError("the template puts two features at one column")
        return Features(values, rows, columns)

    def encoder(self, encode: str) -> Encoder:
        """What computes the model's method ``encode``."""
        if encode not in self.encoders:
            self.encoders[encode] = encoder(self.model, encode)
        return self.encoders[encode]

    def _of_kind(self, batch: Batch, kind: MediaKind, length: int) -> Features | None:
        columns = batch.get(kind.columns.name)
        if columns is None or not (columns < length).any():
            return None
        places = columns.reshape(-1, columns.shape[-1])  # [B · units, F]
        present = np.flatnonzero((places < length).any(-1))
        arrays = [batch[array.name] for array in kind.arrays]
        arrays = [each.reshape(-1, *each.shape[2:])[present] for each in arrays]
        values = self._found_or_encoded(kind.encode, arrays, units_at_once(columns.shape[-1]))
        unit, feature = np.nonzero(places[present] < length)
        return Features(values[unit, feature], present[unit] // columns.shape[1], places[present[unit], feature])

    def _found_or_encoded(self, encode: str, arrays: Sequence[np.ndarray], at_once: int) -> np.ndarray:
        """The features of units [N, F, D]: of those that are kept as they are.

        The others are then encoded one by one: the bits of features depend on how many are encoded together, and must
        not depend on what was asked before.
        """
        if self.kept is None:
            return self.encode(encode, arrays, at_once)
        names = [unit_name(encode, unit) for unit in zip(*arrays)]
        found: dict[bytes, np.ndarray] = {}
        for place, name in enumerate(names):
            if name in found:
                continue
            if (features := self.kept.get(name)) is None:
                (features,) = self.encode(encode, [array[place : place + 1] for array in arrays], 1)
                self.kept.put(name, features)
            found[name] = features
        return np.stack([found[name] for name in names])

    def encode(self, encode: str, arrays: Sequence[np.ndarray], at_once: int) -> np.ndarray:
        """Arrays [N, …] → features [N, F, D] by the model's method ``encode``, ``at_once`` units at a time."""
        run, done = self.encoder(encode), []
        for start in range(0, len(arrays[0]), at_once):
            blocks = [array[start : start + at_once] for array in arrays]
            count = len(blocks[0])
            done.append(run(*padded(blocks, power_of_two(count)))[:count])
        return np.concatenate(done)
