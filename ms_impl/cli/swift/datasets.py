"""Data sets as ms-swift names them: ``a.jsonl b.jsonl#2000``, and a part of each set aside for validation."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ms_impl.data.files import RecordFile
from ms_impl.errors import InputError
from ms_impl.io.atomic_write import atomic_write
from ms_impl.resources import locate

TRAIN, VALIDATION = "train_dataset.jsonl", "val_dataset.jsonl"

_SAMPLED = re.compile(r"(?P<path>.+)#(?P<count>\d{1,12})")


@dataclass(frozen=True)
class Split:
    """The files that are trained on, and the file that is set aside; None: nothing is."""

    train: tuple[str, ...]
    validation: str | None


def prepared(names: Sequence[str], validation: Sequence[str], ratio: float, seed: int, directory: Path) -> Split:
    """The data sets of a run. What is sampled or split is written into ``directory``; whole files stay where they are.

    As in ms-swift, of each data set that is sampled N records are taken at random (all of them, and some again, where N
    is more than there are), and of those at least one is set aside where ``ratio`` is above 0. Given ``validation``
    sets are taken instead of a part.

    Raises InputError naming a data set that cannot be read.
    """
    if not names:
        raise InputError("--dataset: names no file of records")
    if not 0 <= ratio < 1:
        raise InputError(f"--split_dataset_ratio: {ratio:g} is not a share from 0 up to 1")
    generator = np.random.default_rng(seed)
    shares = 0.0 if validation else ratio
    parts = [_parts(name, shares, generator) for name in names]
    held = [_parts(name, 0.0, generator) for name in validation]
    whole = not shares and not any(sampled for *_, sampled in parts)
    train = tuple(os.path.abspath(file.path) for file, *_ in parts) if whole else (str(directory / TRAIN),)
    if not whole:
        _write(directory / TRAIN, ((file, train) for file, train, _, _ in parts))
    aside = [(file, taken) for file, taken, _, _ in held] or [(file, rest) for file, _, rest, _ in parts]
    if not any(len(numbers) for _, numbers in aside):
        return Split(train, None)
    _write(directory / VALIDATION, aside)
    return Split(train, str(directory / VALIDATION))


def _parts(name: str, ratio: float, generator: np.random.Generator) -> tuple[RecordFile, Any, Any, bool]:
    """A data set's file, the numbers of its records that are trained on and set aside, and whether it is sampled."""
    match = _SAMPLED.fullmatch(name)
    path = match["path"] if match else name
    if "://" in path or not Path(locate(path)).is_file():
        raise InputError(f"--dataset: {path} is not a file of records here; nothing is fetched from a hub")
    file = RecordFile(locate(path))
    count = int(match["count"]) if match else len(file)
    if not count:
        raise InputError(f"--dataset: {name} takes no record")
    order = np.arange(len(file))
    if match or ratio:
        rounds, rest = divmod(count, len(file))
        order = np.concatenate([*[order] * rounds, generator.permutation(len(file))[:rest]])
    aside = max(int(len(order) * ratio), 1) if ratio else 0
    if aside >= len(order) and ratio:
        raise InputError(f"--split_dataset_ratio: {ratio:g} of the {len(order)} records of {name} leaves none to train")
    mixed = generator.permutation(len(order)) if aside else np.arange(len(order))
    return file, order[np.sort(mixed[aside:])], order[np.sort(mixed[:aside])], bool(match)


def _write(path: Path, parts: Iterable[tuple[RecordFile, Any]]) -> None:
    with atomic_write(path) as aside, aside.open("w", encoding="utf-8") as lines:
        for file, numbers in parts:
            for number in numbers:
                lines.write(json.dumps(file[int(number)], ensure_ascii=False) + "\n")
