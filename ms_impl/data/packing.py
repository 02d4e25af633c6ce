"""Whole conversations that share a row: which ones, and the row that they make."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal, get_args

import numpy as np

from ms_impl.data.sample import IGNORED, Sample
from ms_impl.errors import InputError

LossWeighting = Literal["token", "dialogue"]

_Left = tuple[int, ...]  # of the needs that are limited beside the first


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
    space: dict[_Left, list[tuple[int, int]]] = {}  # by what is left of the other needs: (tokens left, row), sorted
    taken = needs[:, limited].tolist()
    for index in np.argsort(-needs[:, 0], kind="stable").tolist():
        tokens, *others = taken[index]
        if any(need > capacity for need, capacity in zip((tokens, *others), whole)):
            raise InputError(_too_large(index, needs[index], capacities, names))
        left, row, room = _take_fullest(space, tokens, others) or (whole[0], len(rows), tuple(whole[1:]))
        if row == len(rows):
            rows.append([])
        rows[row].append(index)
        key = tuple(size - need for size, need in zip(room, others))
        insort(space.setdefault(key, []), (left - tokens, row))
    return rows


def _take_fullest(
    space: dict[_Left, list[tuple[int, int]]], tokens: int, others: Sequence[int]
) -> tuple[int, int, _Left] | None:
    """Remove and return (tokens left, row, others left) of the fullest row that holds so much, or None."""
    found: tuple[_Left, int] | None = None
    for room, entries in space.items():
        if all(size >= need for size, need in zip(room, others)):
            at = bisect_left(entries, (tokens, -1))
            if at < len(entries) and (found is None or entries[at] < space[found[0]][found[1]]):
                found = room, at
    if found is None:
        return None
    room, at = found
    left, row = space[room].pop(at)
    if not space[room]:
        del space[room]
    return left, row, room


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
