"""Samples → the arrays that the models take.

A sample is one dialogue, a dict in numpy terms: ``input_ids`` int32 [t]; ``labels`` int32 [t] (−100 = not trained),
absent for inference; ``image_paths`` list of str; ``image_columns`` list of int, the column of each image's first slot;
and, where it came from a file, ``record``: how errors name it. A row to train on, of one dialogue or several, is a
sample too; ``ms_impl.data.packing.pack`` says what else it has.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np

from ms_impl.errors import InputError

IGNORED = -100  # the label of a token that is not trained
_TRAINED = {"labels": IGNORED, "position_ids": 0, "loss_weights": 0}  # what only training needs, with its padding

Sample = Mapping[str, Any]
PaddingSide = Literal["right", "left"]
LoadPixels = Callable[[str, np.ndarray], object]  # reads the image of a path into float32 [3, S, S]


def collate(
    samples: Sequence[Sample],
    *,
    pad_id: int,
    num_queries: int,
    image_size: int,
    load_pixels: LoadPixels,
    padding_side: PaddingSide = "right",
    length: int | None = None,
    image_slots: int | None = None,
) -> dict[str, np.ndarray | None]:
    """One batch of B samples padded to T = ``length`` columns (the longest sample where None).

    Each row has M = ``image_slots`` places for images (the most of any sample where None), of S = ``image_size``
    pixels in height and width, which ``load_pixels`` reads where they stand.

    Returns ``input_ids`` int32 [B, T]; ``segment_ids`` int32 [B, T], 0 on padding and 1 on a sample that has none of
    its own; ``images`` float32 [B, M, 3, S, S], zeros in unused places; ``image_context_pos`` int32 [B, M, Q], the
    column of each query feature, or T in unused places. The last two are None if M is 0. Rows to train on also give
    ``labels`` int32, ``position_ids`` int32 and ``loss_weights`` float32, all [B, T].

    Raises InputError naming the record that is too long or has too many images.
    """
    if not samples:
        raise InputError("a batch needs at least one sample")
    length = length or max(len(sample["input_ids"]) for sample in samples)
    slots = max(len(sample["image_paths"]) for sample in samples) if image_slots is None else image_slots
    names = [sample.get("record") or f"sample {row} of the batch" for row, sample in enumerate(samples)]
    for name, sample in zip(names, samples):
        _check_fits(sample, name, length, slots)
    offsets = [length - len(sample["input_ids"]) if padding_side == "left" else 0 for sample in samples]
    batch = {
        "input_ids": _pad([sample["input_ids"] for sample in samples], offsets, length, pad_id),
        "segment_ids": _pad([_segments(sample) for sample in samples], offsets, length, 0),
        "images": _images(samples, names, slots, image_size, load_pixels) if slots else None,
        "image_context_pos": _positions(samples, offsets, length, slots, num_queries) if slots else None,
    }
    for key, padding in _TRAINED.items():
        if all(key in sample for sample in samples):
            batch[key] = _pad([sample[key] for sample in samples], offsets, length, padding)
    return batch


def _segments(sample: Sample) -> np.ndarray:
    return sample.get("segment_ids", np.ones(len(sample["input_ids"]), dtype=np.int32))


def _check_fits(sample: Sample, name: str, length: int, slots: int) -> None:
    if len(sample["input_ids"]) > length:
        raise InputError(f"{name}: {len(sample['input_ids'])} tokens do not fit in {length}")
    if len(sample["image_paths"]) > slots:
        raise InputError(f"{name}: {len(sample['image_paths'])} images do not fit in {slots} image slots a row")


def _pad(rows: Sequence[np.ndarray], offsets: Sequence[int], length: int, value: int) -> np.ndarray:
    padded = np.full((len(rows), length), value, dtype=rows[0].dtype)
    for target, row, offset in zip(padded, rows, offsets):
        target[offset : offset + len(row)] = row
    return padded


def _images(
    samples: Sequence[Sample], names: Sequence[str], slots: int, size: int, load_pixels: LoadPixels
) -> np.ndarray:
    images = np.zeros((len(samples), slots, 3, size, size), dtype=np.float32)
    for places, sample, name in zip(images, samples, names):
        _read(sample, name, load_pixels, places)
    return images


def _read(sample: Sample, name: str, load_pixels: LoadPixels, places: np.ndarray) -> None:
    """Put a sample's images into ``places`` [M, 3, S, S]. Where dialogues share a row, errors name the right one."""
    paths = sample["image_paths"]
    for place, path, record in zip(places, paths, sample.get("image_records", [name] * len(paths))):
        try:
            load_pixels(path, place)
        except InputError as error:
            raise InputError(f"{record}: {error}") from error


def _positions(
    samples: Sequence[Sample], offsets: Sequence[int], length: int, slots: int, num_queries: int
) -> np.ndarray:
    positions = np.full((len(samples), slots, num_queries), length, dtype=np.int32)
    for row, sample, offset in zip(positions, samples, offsets):
        for place, column in zip(row, sample["image_columns"]):
            place[:] = np.arange(num_queries) + column + offset
    return positions
