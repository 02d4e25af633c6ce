"""Whole conversations that share a row: which ones, and the row that they make."""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal, get_args

import numpy as np

from ms_impl.data.sample import IGNORED, Sample
from ms_impl.errors import InputError

LossWeighting = Literal["token", "dialogue"]

_MOST_BUCKETS = 64  # that are looked through; a table is faster than more


def best_fit(needs: np.ndarray, capacities: Sequence[int | None], names: Sequence[str]) -> list[list[int]]:
    """Deal conversations out to rows, the one with most tokens first.

    Each goes into the fullest row, by tokens, that still holds it (best-fit decreasing: Johnson, "Near-optimal bin
    packing algorithms", 1973). Among those of one length the order given decides.

    Args:
        needs: int [n, k], what each conversation takes; tokens first.
        capacities: [k], what a row holds of each; None: any number.
        names: [k], what the needs are called.

    Returns the indices of each row; every index is in exactly one. Raises InputError for a conversation that no row
    can hold.
    """
    held = {column: capacity for column, capacity in enumerate(capacities) if capacity is not None}
    limited, whole = list(held), list(held.values())
    rows: list[list[int]] = []
    buckets = math.prod(capacity + 1 for capacity in whole[1:])
    space = _Buckets() if buckets <= _MOST_BUCKETS else _Table(len(limited))
    taken = needs[:, limited].tolist()
    for index in np.argsort(-needs[:, 0], kind="stable").tolist():
        if any(need > capacity for need, capacity in zip(taken[index], whole)):
            raise InputError(_too_large(index, needs[index], capacities, names))
        row, left = space.take(taken[index]) or (len(rows), whole)
        if row == len(rows):
            rows.append([])
        rows[row].append(index)
        space.put(row, [size - need for size, need in zip(left, taken[index])])
    return rows


class _Buckets:
    """What rows have left, tokens first, in buckets of what they have left of the rest: for small ones."""

    def __init__(self) -> None:
        self._rows: dict[tuple[int, ...], list[tuple[int, int]]] = {}  # (tokens left, row), sorted

    def put(self, row: int, left: Sequence[int]) -> None:
        tokens, *others = left
        insort(self._rows.setdefault(tuple(others), []), (tokens, row))

    def take(self, needs: Sequence[int]) -> tuple[int, Sequence[int]] | None:
        """Remove the fullest row that holds so much: its number, and what it has left. None: there is none."""
        tokens, *others = needs
        found: tuple[tuple[int, ...], int] | None = None
        for room, entries in self._rows.items():
            if all(size >= need for size, need in zip(room, others)):
                at = bisect_left(entries, (tokens, -1))
                if at < len(entries) and (found is None or entries[at] < self._rows[found[0]][found[1]]):
                    found = room, at
        if found is None:
            return None
        room, at = found
        left, row = self._rows[room].pop(at)
        if not self._rows[room]:
            del self._rows[room]
        return row, (left, *room)


class _Table:
    """The same as a table of all rows, int [k, rows]: where buckets would be too many."""

    def __init__(self, needs: int) -> None:
        self._left = np.full((needs, 1024), -1, np.int64)
        self._count = 0

    def put(self, row: int, left: Sequence[int]) -> None:
        if row == self._left.shape[1]:
            self._left = np.concatenate([self._left, np.full_like(self._left, -1)], axis=1)
        self._count = max(self._count, row + 1)
        self._left[:, row] = left

    def take(self, needs: Sequence[int]) -> tuple[int, Sequence[int]] | None:
        """As ``_Buckets.take``; the row stays, and is put anew."""
        left = self._left[:, : self._count]
        fits = left[0] >= needs[0]
        for sizes, need in zip(left[1:], needs[1:]):
            fits &= sizes >= need
        (rows,) = fits.nonzero()
        if not len(rows):
            return None
        row = int(rows[left[0, rows].argmin()])
        return row, left[:, row].tolist()


def _too_large(index: int, needs: np.ndarray, capacities: Sequence[int | None], names: Sequence[str]) -> str:
    has = " and ".join(f"{need} {name}" for need, name in zip(needs.tolist(), names))
    holds = " and ".join(f"{capacity} {name}" for capacity, name in zip(capacities, names) if capacity is not None)
    return f"conversation {index} has {has}; a row holds {holds}"


def pack(conversations: Sequence[Sample], weighting: LossWeighting = "token", position_axes: int = 1) -> Sample:
    """One row of several conversations, each of which computes what it would alone.

    Attention stays within equal ``segment_ids`` (1, 2, …), positions and media are those of each conversation. Its
    first label is taken out: nothing comes before it that could predict it. ``loss_weights`` float32 [t] are what each
    label counts: 1, or, weighting by "dialogue", so much that the labels of each conversation together count 1; times
    its ``loss_scale``. Without conversations the row is empty.
    """
    if not conversations:
        return _empty(position_axes)
    starts = np.cumsum([0, *map(len, conversations)]).tolist()
    labels = [_predictable(each.labels) for each in conversations]
    media = [
        replace(medium, columns=medium.columns + start)
        for each, start in zip(conversations, starts)
        for medium in each.media
    ]
    return Sample(
        input_ids=np.concatenate([each.input_ids for each in conversations]),
        position_ids=np.concatenate([each.position_ids for each in conversations], axis=-1),
        labels=np.concatenate(labels),
        next_position=conversations[-1].next_position,
        media=tuple(media),
        record="; ".join(each.record for each in conversations),
        answer_tokens=sum(each.answer_tokens for each in conversations),
        segment_ids=np.repeat(np.arange(1, len(conversations) + 1, dtype=np.int32), np.diff(starts)),
        loss_weights=np.concatenate(
            [label_weights(row, weighting, each.loss_scale) for row, each in zip(labels, conversations)]
        ),
    )


def label_weights(labels: np.ndarray, weighting: LossWeighting, scale: np.ndarray | None = None) -> np.ndarray:
    """What each label of one conversation counts in the loss: float32 [t], 0 where there is none."""
    if weighting not in get_args(LossWeighting):
        raise InputError(f"loss_weighting: {weighting!r} is unknown; it is {' or '.join(get_args(LossWeighting))}")
    learnt = (labels != IGNORED).astype(np.float32)
    weights = learnt / max(learnt.sum(), 1) if weighting == "dialogue" else learnt
    return weights if scale is None else weights * scale


def _predictable(labels: np.ndarray | None) -> np.ndarray:
    assert labels is not None, "a sample for inference is not packed"
    return np.concatenate(([IGNORED], labels[1:])).astype(np.int32)


def _empty(position_axes: int) -> Sample:
    nothing = np.empty(0, np.int32)
    positions = nothing if position_axes == 1 else np.empty((position_axes, 0), np.int32)
    weights = np.empty(0, np.float32)
    return Sample(nothing, positions, nothing, record="no conversation", segment_ids=nothing, loss_weights=weights)
