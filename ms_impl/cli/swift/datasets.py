"""Data sets as ms-swift names them: ``a.jsonl b.jsonl#2000``, and a part of each set aside for validation."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ms_impl.cli.annotations import locate_records
from ms_impl.data.files import RecordFile, part_of, sampled
from ms_impl.errors import InputError
from ms_impl.io.atomic_write import atomic_write

TRAIN, VALIDATION = "train_dataset.jsonl", "val_dataset.jsonl"


@dataclass(frozen=True)
class Split:
    """The files that are trained on, and the file that is set aside; None: nothing is."""

    train: tuple[str, ...]
    validation: str | None


def prepared(
    names: Sequence[str], validation: Sequence[str], ratio: float, seed: int, directory: Path, shuffle: bool = True
) -> Split:
    """The data sets of a run. What is sampled or split is written into ``directory``; whole files stay where they are.

    As in ms-swift: ``FILE#N`` takes N records (see ``ms_impl.data.files.sampled``), at random unless ``shuffle`` is
    off; where ``ratio`` is above 0 that share of them, at least one, is set aside first, and none of it trained on.
    Given ``validation`` sets, of which the first N are taken, stand in place of a part.

    Raises InputError naming a data set that cannot be read.
    """
    if not names:
        raise InputError("--dataset: names no file of records")
    if not 0 <= ratio < 1:
        raise InputError(f"--split_dataset_ratio: {ratio:g} is not a share from 0 up to 1")
    shares = 0.0 if validation else ratio
    parts = [_part(name, shares, seed if shuffle else None) for name in names]
    held = [_part(name, 0.0, None) for name in validation]
    whole = not shares and not any(part.sampled for part in parts)
    train = tuple(os.path.abspath(part.file.path) for part in parts) if whole else (str(directory / TRAIN),)
    if not whole:
        _write(directory / TRAIN, ((part.file, part.train) for part in parts))
    aside = [(part.file, part.train) for part in held] or [(part.file, part.aside) for part in parts]
    if not any(len(numbers) for _, numbers in aside):
        return Split(train, None)
    _write(directory / VALIDATION, aside)
    return Split(train, str(directory / VALIDATION))


@dataclass(frozen=True)
class _Part:
    """Of a file the numbers of the records that are trained on and set aside, and whether it is sampled."""

    file: RecordFile
    train: np.ndarray
    aside: np.ndarray
    sampled: bool


def _part(name: str, ratio: float, seed: int | None) -> _Part:
    path, count = part_of(locate_records(name))
    if "://" in path or not Path(path).is_file():
        raise InputError(f"--dataset: {path} is not a file of records here; nothing is fetched from a hub")
    if count == 0:
        raise InputError(f"--dataset: {name} takes no record")
    file = RecordFile(path)
    taken = len(file) if count is None else count
    held = max(int(min(taken, len(file)) * ratio), 1) if ratio else 0
    if held >= min(taken, len(file)) and ratio:
        raise InputError(f"--split_dataset_ratio: {ratio:g} of the {taken} records of {name} leaves none to train")
    aside = sampled(len(file), held, seed or 0)  # at random in any case, as ms-swift's
    rest = np.setdiff1d(np.arange(len(file)), aside)
    return _Part(file, rest[sampled(len(rest), taken - held, seed)], aside, count is not None)


def _write(path: Path, parts: Iterable[tuple[RecordFile, Any]]) -> None:
    with atomic_write(path) as aside, aside.open("w", encoding="utf-8") as lines:
        for file, numbers in parts:
            for number in numbers:
                lines.write(json.dumps(file[int(number)], ensure_ascii=False) + "\n")
