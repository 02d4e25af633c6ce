"""Samples → the arrays that the models take."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np

from ms_impl.data.sample import IGNORED, TOKENS, ArraySpec, Outline, Sample, Sizes
from ms_impl.data.template import Template
from ms_impl.errors import InputError

PaddingSide = Literal["right", "left"]
Batch = dict[str, Any]  # arrays; None for those of a kind that no row has room for


def collate(
    rows: Sequence[Sample], template: Template, sizes: Sizes | None = None, padding_side: PaddingSide = "right"
) -> Batch:
    """One batch of B rows, their media read.

    ``sizes`` is the shape of the rows: T = ``tokens`` columns, and what the template's arrays name. What it leaves out
    is as large as these rows need.

    Returns ``input_ids`` int32 [B, T]; ``segment_ids`` int32 [B, T], 0 on padding and 1 where a row has none of its
    own; ``position_ids`` int32 [B, T], or [B, axes, T]; ``next_positions`` int32 [B]; and the arrays of
    ``template.kinds``, None where a row has no room for one unit. Rows to train on also give ``labels`` int32 and
    ``loss_weights`` float32, both [B, T].

    Raises InputError naming the record that is too long, has too many media, or has one that cannot be read.
    """
    if not rows:
        raise InputError("a batch needs at least one sample")
    rows = [_named(row, f"sample {number} of the batch") for number, row in enumerate(rows)]
    sizes = sizes_of(template, (row.outline for row in rows), sizes or {})
    for row in rows:
        _check_fits(row, template, sizes)
    length = sizes[TOKENS]
    offsets = [length - len(row) if padding_side == "left" else 0 for row in rows]
    shifts = offsets if template.padding_shifts_positions else [0] * len(rows)
    batch: Batch = {
        "input_ids": _pad([row.input_ids for row in rows], offsets, length, template.tokenizer.pad_id),
        "segment_ids": _pad([_segments(row) for row in rows], offsets, length, 0),
        "position_ids": _pad([row.position_ids + shift for row, shift in zip(rows, shifts)], offsets, length, 0),
        "next_positions": np.array([row.next_position + shift for row, shift in zip(rows, shifts)], np.int32),
    }
    for key, padding in (("labels", IGNORED), ("loss_weights", 0)):
        values = [getattr(row, key) for row in rows]
        if all(value is not None for value in values):
            batch[key] = _pad(values, offsets, length, padding)
    return batch | _media(rows, template, sizes, offsets)


def sizes_of(template: Template, outlines: Iterable[Outline], given: Sizes) -> dict[str, int]:
    """The shape of rows that hold each of ``outlines``: what is ``given``, else the largest that one needs."""
    outlines = list(outlines)
    largest = largest_of(template, outlines)
    sizes = {**template.fixed_sizes, **largest, **given}
    needs = [template.need(outline, sizes) for outline in outlines]
    return {name: max(need[name] for need in needs) for name in template.needs} | sizes


def largest_of(template: Template, outlines: Iterable[Outline]) -> dict[str, int]:
    """The sizes of ``template.largest_of`` that hold each of ``outlines``."""
    largest = dict(template.largest(Outline(0)))
    for outline in outlines:
        for name, size in template.largest(outline).items():
            largest[name] = max(largest[name], size)
    return largest


def _named(row: Sample, name: str) -> Sample:
    """The row with a name for errors, its media too."""
    name = row.record or name
    media = tuple(medium if medium.record else replace(medium, record=name) for medium in row.media)
    return replace(row, record=name, media=media)


def _segments(row: Sample) -> np.ndarray:
    return np.ones(len(row), np.int32) if row.segment_ids is None else row.segment_ids


def _check_fits(row: Sample, template: Template, sizes: Sizes) -> None:
    for name, need in template.need(row.outline, sizes).items():
        if need > sizes[name]:
            raise InputError(f"{row.record}: {need} {name} do not fit in {sizes[name]} a row")
    for name, need in template.largest(row.outline).items():
        if need > sizes[name]:
            raise InputError(f"{row.record}: {name} is {need}, more than the {sizes[name]} of this batch")
    if len(row) and row.input_ids.min() < 0:
        raise InputError(f"{row.record}: a token id is negative; no embedding has it")


def _pad(rows: Sequence[np.ndarray], offsets: Sequence[int], length: int, value: int) -> np.ndarray:
    """Rows [..., t] side by side as [B, ..., length]."""
    padded = np.full((len(rows), *rows[0].shape[:-1], length), value, dtype=rows[0].dtype)
    for target, row, offset in zip(padded, rows, offsets):
        target[..., offset : offset + row.shape[-1]] = row
    return padded


def _media(rows: Sequence[Sample], template: Template, sizes: Sizes, offsets: Sequence[int]) -> Batch:
    """The arrays of the template's kinds."""
    specs = {spec.name: spec for kind in template.kinds for spec in kind.all_arrays}
    shapes = {name: (len(rows), *spec.shape(sizes)) for name, spec in specs.items()}
    arrays = {name: _filled(spec, shapes[name], sizes) for name, spec in specs.items() if shapes[name][1]}
    for number, (row, offset) in enumerate(zip(rows, offsets)):
        template.load(row.media, {name: array[number] for name, array in arrays.items()}, offset)
    columns = [arrays[kind.columns.name] for kind in template.kinds if kind.columns.name in arrays]
    for number, row in enumerate(rows):
        _check_columns([each[number] for each in columns], row, sizes[TOKENS])
    return {name: arrays.get(name) for name in specs}


def _filled(spec: ArraySpec, shape: tuple[int, ...], sizes: Sizes) -> np.ndarray:
    padding = sizes[TOKENS] if spec.padding is None else spec.padding
    return np.full(shape, padding, spec.dtype) if padding else np.zeros(shape, spec.dtype)  # zeros cost nothing


def _check_columns(columns: Sequence[np.ndarray], row: Sample, length: int) -> None:
    """Raise InputError if two features stand in one column: a scatter would keep one of them, which one is open."""
    taken = np.concatenate([np.empty(0, np.int32), *(each.ravel() for each in columns)])
    taken = np.sort(taken[taken != length])
    if len(taken) and (taken[0] < 0 or taken[-1] > length or (taken[1:] == taken[:-1]).any()):
        raise InputError(f"{row.record}: features of its media share columns, or lie outside the row")
