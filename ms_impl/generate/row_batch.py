"""Decoding of rows that come and go: a batch of fixed shape in which each row has its own prompt, columns and end."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import groupby

import numpy as np
from mindspore import nn

from ms_impl.errors import InputError
from ms_impl.generate.decode import Decoder


class RowBatch:
    """Up to ``rows`` answers at once in a cache of ``capacity`` columns.

    A prompt is prefilled by a ``Decoder`` of its own, as it would be alone, and its keys and values are copied: so the
    rows beside it have no part in a row's bits. Where the kernel decodes, they are those of ``Decoder`` at any shape.
    """

    def __init__(self, model: nn.Cell, rows: int, capacity: int):
        self.model = model
        self.rows, self.capacity = rows, capacity
        self.cache = model.new_cache(rows, capacity)
        self.token_step = model.decoders.token_step(self.cache)
        self.segments = np.zeros((rows, capacity), np.int32)
        self.columns = np.zeros(rows, np.int32)  # where the next token of a row stands,
        self.positions = np.zeros(rows, np.int32)  # its position,
        self.lengths = np.zeros(rows, np.int32)  # and the columns of the prompt
        self.taken: set[int] = set()

    @property
    def free(self) -> int:
        """How many rows are free."""
        return self.rows - len(self.taken)

    def admit(self, prefilled: Decoder) -> int:
        """Take over the one row of a decoder after its prefill: the number that it has here.

        The lowest that is free, for rows behind the last one in use cost nothing. Raises ValueError where none is free
        or the prompt does not fit.
        """
        length = prefilled.length
        if not self.free or prefilled.batch_rows != 1 or length >= self.capacity:
            raise ValueError(f"{prefilled.batch_rows} rows of {length} columns for {self.free} free of {self.capacity}")
        row = min(set(range(self.rows)) - self.taken)
        for own, shared in zip(prefilled.cache, self.cache):
            shared.copy_row(row, own, length)
        self.segments[row] = 0
        self.segments[row, :length] = prefilled.segments[0, :length]
        self.columns[row], self.positions[row] = prefilled.ends[0], prefilled.next_positions[0]
        self.lengths[row] = length
        self.taken.add(row)
        return row

    def step(self, tokens: Mapping[int, int]) -> dict[int, np.ndarray | InputError]:
        """Append a token to rows in use; logits, float32 [vocab], after it, by row.

        All rows in use must get one. A row whose logits are not finite has an error in their place, and must be
        released.
        """
        if tokens.keys() != self.taken:
            raise ValueError(f"tokens for rows {sorted(tokens)}, but those in use are {sorted(self.taken)}")
        ids = np.zeros((self.rows, 1), np.int32)
        columns = np.zeros((self.rows, 1), np.int32)
        for row, token in tokens.items():
            column = int(self.columns[row])
            ids[row], columns[row] = token, column
            self.segments[row, column] = self.segments[row, column - 1]
        logits = self.token_step(ids, self.segments, columns, *self._rotary())
        for row in tokens:
            self.columns[row] += 1
            self.positions[row] += 1
        return {row: self._checked(row, logits[row]) for row in tokens}

    def release(self, row: int) -> None:
        """Make a row free."""
        self.taken.remove(row)
        self.segments[row] = 0
        self.columns[row] = self.positions[row] = self.lengths[row] = 0

    def _rotary(self) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """Of one column of each row, after a prompt of its own length: those of a length in one call.

        Rows that are free have what comes first.
        """
        order = sorted(self.taken, key=lambda row: int(self.lengths[row]))
        groups = [list(rows) for _, rows in groupby(order, key=lambda row: int(self.lengths[row]))]
        turns = [self.model.rotary(self.positions[rows][:, None], int(self.lengths[rows[0]])) for rows in groups]
        source = np.zeros(self.rows, np.int64)
        source[order] = np.arange(len(order))
        cos, sin = (np.concatenate([turn[part] for turn in turns])[source] for part in (0, 1))
        return cos, sin, None if turns[0][2] is None else np.concatenate([turn[2] for turn in turns])[source]

    def _checked(self, row: int, logits: np.ndarray) -> np.ndarray | InputError:
        if np.isfinite(logits).all():
            return logits
        for layer in self.cache:  # or what is hidden there would spoil the next one in this row
            layer.clear_row(row)
        return InputError("the model's logits are not finite: numbers too large for its dtype; load it with another")
