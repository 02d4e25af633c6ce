"""Which conversations each step of a run takes: decided before the first step, from needs and a seed alone."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol

import numpy as np

from ms_impl.data.packing import best_fit
from ms_impl.data.sample import TOKENS, Sizes
from ms_impl.errors import InputError

_GROUPED_BATCHES = 50  # group_by_length sorts so many batches at a time: enough to be even, few enough to stay mixed
_DIGESTED_AT_ONCE = 1 << 20
_MOST_MEMBERS = 50_000_000  # of a whole run; the plan keeps some hundred bytes of each while it is made
_BUCKETS = 4  # how many row lengths there are then; a static graph is compiled for each


class PlannedData(Protocol):
    """What a plan asks of a data set: one entry for each conversation."""

    @property
    def needs(self) -> np.ndarray:
        """int [n, k]: what each takes of a row, tokens first."""

    @property
    def need_names(self) -> tuple[str, ...]:
        """What the needs are called, [k]."""

    @property
    def sizes(self) -> Sizes:
        """The sizes that are not needs: those that every row of the run has."""

    def epoch(self, number: int, seed: int) -> np.ndarray:
        """The conversations of an epoch, in their own order; one may come several times."""

    def record(self, index: int) -> str:
        """How errors name a conversation."""


@dataclass(frozen=True)
class PlanSettings:
    """How the conversations become a stream of rows, and the stream becomes steps.

    ``rows_per_step`` counts the rows of all ranks and all micro-batches. ``capacities`` are what each row has room for
    of other needs than tokens; of those that it does not name, as much as any row takes.
    """

    epochs: int
    rows_per_step: int
    row_length: int
    seed: int = 0
    shuffle: bool = True
    packing: bool = False
    group_by_length: bool = False
    capacities: Sizes = field(default_factory=dict)
    drop_remainder: bool = True


class BatchPlan:
    """The rows of a whole run as one stream, which its steps take from the front.

    Every epoch is the stream's next part. Rows are whole conversations, packed or alone; nothing is left out or
    repeated but the rows that fill no last step (``dropped``), and with ``drop_remainder`` off that step has empty rows
    instead. The plan is a function of the needs and the settings: it does not depend on the number of ranks, and a
    resumed run makes the same one.
    """

    def __init__(self, conversations: PlannedData, settings: PlanSettings):
        self.settings = settings
        self._conversations = conversations
        self._needs = np.asarray(conversations.needs)
        self._lengths = self._needs[:, 0]
        self._check_capacities()
        self._check_number()
        epochs = [self._epoch_rows(epoch) for epoch in range(settings.epochs)]
        self._epoch_ends = np.cumsum([len(rows) for rows in epochs])
        rows = [row for epoch in epochs for row in epoch]
        if settings.group_by_length:
            rows = self._grouped(rows)
        self._members = np.concatenate([*rows, np.empty(0, np.int64)]).astype(np.int64)
        self._starts = np.cumsum([0, *map(len, rows)])
        steps, rest = divmod(len(rows), settings.rows_per_step)
        self.dropped = rest if settings.drop_remainder else 0
        self.total_steps = steps + (rest > 0 and not settings.drop_remainder)
        if not self.total_steps:
            raise InputError(f"{len(rows)} rows of dialogues do not fill one batch of {settings.rows_per_step}")

    @property
    def total_rows(self) -> int:
        return len(self._starts) - 1

    def rows(self, step: int, rank: int = 0, ranks: int = 1) -> list[np.ndarray]:
        """The conversations in each row of one rank's part of a step; an empty row has none."""
        share = self.settings.rows_per_step // ranks
        first = step * self.settings.rows_per_step + rank * share
        return [self._row(number) for number in range(first, first + share)]

    def row_numbers(self, step: int, rank: int = 0, ranks: int = 1) -> np.ndarray:
        """Where in the stream the rows of ``rows`` stand: int64 [rows of one rank]."""
        share = self.settings.rows_per_step // ranks
        return step * self.settings.rows_per_step + rank * share + np.arange(share)

    def sizes(self, step: int) -> dict[str, int]:
        """The shape of a step's rows: one for the whole run, or, grouped by length, one of four."""
        return self._shapes[self._shape_of_step[step]]

    def shapes(self) -> list[tuple[dict[str, int], int]]:
        """The shapes of the run's rows, and how many steps have each."""
        return [(self._shapes[shape], count) for shape, count in sorted(Counter(self._shape_of_step).items())]

    def useful_tokens(self, step: int) -> int:
        """Tokens of a step, padding not counted."""
        return sum(int(self._lengths[row].sum()) for row in self.rows(step))

    def all_tokens(self, step: int) -> int:
        """Tokens of a step, padding too."""
        return self.settings.rows_per_step * self.sizes(step)[TOKENS]

    def epoch_at(self, step: int) -> float:
        """How many epochs are done when ``step`` begins."""
        row = step * self.settings.rows_per_step
        epoch = int(np.searchsorted(self._epoch_ends, row, side="right"))
        if epoch == len(self._epoch_ends):
            return float(epoch)
        start = self._epoch_ends[epoch - 1] if epoch else 0
        return epoch + (row - start) / (self._epoch_ends[epoch] - start)

    def digest(self, digests: np.ndarray) -> str:
        """A name for all rows of the run, in order: sha256 over where rows begin and the conversations in them.

        ``digests`` uint8 [n, 16]: what each conversation is encoded to.
        """
        whole = hashlib.sha256(self._starts.tobytes())
        for start in range(0, len(self._members), _DIGESTED_AT_ONCE):
            members = self._members[start : start + _DIGESTED_AT_ONCE]
            whole.update(np.ascontiguousarray(digests[members]))
        return whole.hexdigest()

    def records(self, step: int) -> list[str]:
        """The names of all conversations in a step, those of every rank."""
        return [self._conversations.record(int(index)) for row in self.rows(step) for index in row]

    def _check_number(self) -> None:
        planned = self.settings.epochs * len(self._conversations.epoch(0, self.settings.seed))
        if planned > _MOST_MEMBERS:
            raise InputError(
                f"{self.settings.epochs:,} epochs are {planned:,} conversations, of which a plan takes at most "
                f"{_MOST_MEMBERS:,}; lower epochs, repeat or the files' weights"
            )

    def _check_capacities(self) -> None:
        for column, name in enumerate(self._conversations.need_names):
            capacity = self.settings.capacities.get(name)
            for index in np.flatnonzero(self._needs[:, column] > capacity)[:1].tolist() if capacity else ():
                need = f"{self._needs[index, column]} {name} do not fit in {capacity} a row"
                raise InputError(f"{self._conversations.record(index)}: {need}")

    def _row(self, number: int) -> np.ndarray:
        if number >= self.total_rows:
            return np.empty(0, np.int64)
        return self._members[self._starts[number] : self._starts[number + 1]]

    def _epoch_rows(self, epoch: int) -> list[np.ndarray]:
        members = np.asarray(self._conversations.epoch(epoch, self.settings.seed))
        generator = np.random.default_rng((self.settings.seed, epoch))
        if self.settings.shuffle:
            members = generator.permutation(members)
        if not self.settings.packing:
            return list(members.reshape(-1, 1))
        names = self._conversations.need_names
        capacities = [self.settings.row_length, *(self.settings.capacities.get(name) or None for name in names[1:])]
        rows = best_fit(self._needs[members], capacities, names)
        order = generator.permutation if self.settings.shuffle else np.arange
        return [members[np.sort(rows[number])] for number in order(len(rows))]

    def _grouped(self, rows: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Rows of like length together in a step; the steps of each group of batches in random order."""
        batch = self.settings.rows_per_step
        generator = np.random.default_rng((self.settings.seed, len(rows)))
        ordered: list[np.ndarray] = []
        for start in range(0, len(rows), batch * _GROUPED_BATCHES):
            group = rows[start : start + batch * _GROUPED_BATCHES]
            group = sorted(group, key=lambda row: int(self._lengths[row].sum()))
            batches = [group[at : at + batch] for at in range(0, len(group), batch)]
            whole = [rows for rows in batches if len(rows) == batch]  # a last one that is not full stays last
            ordered += [row for at in generator.permutation(len(whole)) for row in whole[at]]
            ordered += [row for rows in batches[len(whole) :] for row in rows]
        return ordered

    @cached_property
    def _shape_of_step(self) -> list[int]:
        """Which of ``_shapes`` each step has."""
        if not self.settings.group_by_length:
            return [0] * self.total_steps
        whole = self.settings.row_length
        ends = [-(-whole * part // _BUCKETS) for part in range(1, _BUCKETS + 1)]
        longest = self._largest_by_step[: self.total_steps, 0]
        return np.searchsorted(ends, longest).tolist()

    @cached_property
    def _shapes(self) -> dict[int, dict[str, int]]:
        """The shapes that steps have. The first need's size is that of its bucket, the others' as large as its rows'.

        Without groups, rows that are left out at the end count, too.
        """
        whole, grouped = self.settings.row_length, self.settings.group_by_length
        shapes = {}
        for shape in set(self._shape_of_step):
            steps = np.array(self._shape_of_step) == shape
            largest = self._largest_by_step[: self.total_steps][steps] if grouped else self._largest_by_step
            sizes = dict(zip(self._conversations.need_names, np.maximum(largest.max(axis=0), 1).tolist()))
            sizes[TOKENS] = -(-whole * (shape + 1) // _BUCKETS) if grouped else whole
            limits = {name: capacity for name, capacity in self.settings.capacities.items() if capacity}
            shapes[shape] = {**self._conversations.sizes, **sizes, **limits}
        return shapes

    @cached_property
    def _largest_by_step(self) -> np.ndarray:
        """The largest sums of needs of a step's rows: int [steps, k], the last rows of the run a step of their own."""
        rows = [np.add.reduceat(column[self._members], self._starts[:-1]) for column in self._needs.T]
        first = np.arange(0, self.total_rows, self.settings.rows_per_step)
        return np.stack([np.maximum.reduceat(sums, first) for sums in rows], axis=1)


def described(plan: BatchPlan, needs: Sequence[str]) -> str:
    """The shapes of a run's rows, in words."""
    return "; ".join(
        f"{', '.join(f'{sizes[name]} {name}' for name in needs)} ({count:,} steps)" for sizes, count in plan.shapes()
    )
