"""Whole dialogues that share a row: which ones, and the row that they make."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np

from ms_impl.data.batch import IGNORED, Sample
from ms_impl.errors import InputError

LossWeighting = Literal["token", "dialogue"]

_NO_TOKENS = np.empty(0, np.int32)
_EMPTY: Sample = {
    **dict.fromkeys(("input_ids", "labels", "segment_ids", "position_ids"), _NO_TOKENS),
    "loss_weights": _NO_TOKENS.astype(np.float32),
    "image_paths": [],
    "image_columns": [],
    "record": "no dialogue",
}


def best_fit(
    lengths: Sequence[int] | np.ndarray, images: Sequence[int] | np.ndarray, row_length: int, image_slots: int
) -> list[list[int]]:
    """Deal dialogues out to rows of ``row_length`` tokens and ``image_slots`` images, longest dialogue first.

    Each goes into the fullest row that still holds it (best-fit decreasing: Johnson, "Near-optimal bin packing
    algorithms", 1973). Among dialogues of one length the order given decides. Returns the indices of each row; every
    index is in exactly one. Raises InputError for a dialogue that no row can hold.
    """
    rows: list[list[int]] = []
    space: list[list[tuple[int, int]]] = [[] for _ in range(image_slots + 1)]  # by images left: (tokens left, row)
    for index in np.argsort(-np.asarray(lengths), kind="stable").tolist():
        length, pictures = int(lengths[index]), int(images[index])
        if length > row_length or pictures > image_slots:
            raise InputError(
                f"dialogue {index} has {length} tokens and {pictures} images; "
                f"a row holds {row_length} tokens and {image_slots} images"
            )
        left, row, slots = _take_fullest(space, length, pictures) or (row_length, len(rows), image_slots)
        if row == len(rows):
            rows.append([])
        rows[row].append(index)
        insort(space[slots - pictures], (left - length, row))
    return rows


def _take_fullest(space: list[list[tuple[int, int]]], length: int, pictures: int) -> tuple[int, int, int] | None:
    """Remove and return (tokens left, row, images left) of the fullest row that holds so much, or None."""
    found = None
    for slots in range(pictures, len(space)):
        at = bisect_left(space[slots], (length, -1))
        if at < len(space[slots]) and (found is None or space[slots][at] < space[found[0]][found[1]]):
            found = slots, at
    if found is None:
        return None
    slots, at = found
    return *space[slots].pop(at), slots


def pack(dialogues: Sequence[Sample], weighting: LossWeighting = "token") -> Sample:
    """One row of several dialogues, each of which computes what it would alone.

    Attention stays within equal ``segment_ids`` (1, 2, …), ``position_ids`` begin at 0 in each dialogue, images keep
    their dialogue's slots. A dialogue's first label is taken out: nothing comes before it that could predict it.
    ``loss_weights`` float32 [t] are what each label counts: 1, or, weighting by "dialogue", so much that the labels of
    each dialogue together count 1. Without dialogues the row is empty.
    """
    if not dialogues:
        return _EMPTY
    starts = np.cumsum([0, *(len(dialogue["input_ids"]) for dialogue in dialogues)]).tolist()
    labels = [_predictable(dialogue["labels"]) for dialogue in dialogues]
    return {
        "record": "; ".join(dialogue["record"] for dialogue in dialogues),
        "input_ids": np.concatenate([dialogue["input_ids"] for dialogue in dialogues]),
        "labels": np.concatenate(labels),
        "loss_weights": np.concatenate([label_weights(row, weighting) for row in labels]),
        "segment_ids": np.repeat(np.arange(1, len(dialogues) + 1, dtype=np.int32), np.diff(starts)),
        "position_ids": np.concatenate([np.arange(len(row), dtype=np.int32) for row in labels]),
        "image_paths": [path for dialogue in dialogues for path in dialogue["image_paths"]],
        "image_records": [dialogue["record"] for dialogue in dialogues for _ in dialogue["image_paths"]],
        "image_columns": [
            column + start for dialogue, start in zip(dialogues, starts) for column in dialogue["image_columns"]
        ],
    }


def label_weights(labels: np.ndarray, weighting: LossWeighting) -> np.ndarray:
    """What each label of one dialogue counts in the loss: float32 [t], 0 where there is none."""
    if weighting not in get_args(LossWeighting):
        raise InputError(f"loss_weighting: {weighting!r} is unknown; it is {' or '.join(get_args(LossWeighting))}")
    learnt = (labels != IGNORED).astype(np.float32)
    return learnt / max(learnt.sum(), 1) if weighting == "dialogue" else learnt


def _predictable(labels: np.ndarray) -> np.ndarray:
    return np.concatenate(([IGNORED], labels[1:])).astype(np.int32)
