"""What is known of encoded records, in arrays: all that a plan needs, and no sample."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ms_impl.data.sample import Outline, Sample
from ms_impl.data.template import Template

DIGEST_BYTES = 16
_GONE = -1  # the size of a file that is not there


@dataclass
class Entries:
    """What is known of n records, in order.

    Ragged arrays have the end of each record's part, or of each medium's, as in ``media_ends``.

    Attributes:
        whole: int32 [n], tokens before cutting off; 0: the record is broken.
        tokens, trained, answers: int32 [n], tokens of the sample, those that are trained, those of answers.
        digests: uint8 [n, 16], of the sample.
        media_ends: int64 [n]; kinds: int8 [m], by their number; geometry_ends: int64 [m]; geometry: int64.
        file_ends: int64 [n]; files: int32, numbers of ``paths``: what the media of each record are read from.
        changes: int32 [c, 3]: record, number of a name in ``change_names``, count.
        states: int64 [p, 2]: size and time of each of the ``paths``.
    """

    whole: np.ndarray
    tokens: np.ndarray
    trained: np.ndarray
    answers: np.ndarray
    digests: np.ndarray
    media_ends: np.ndarray
    kinds: np.ndarray
    geometry_ends: np.ndarray
    geometry: np.ndarray
    file_ends: np.ndarray
    files: np.ndarray
    changes: np.ndarray
    states: np.ndarray
    change_names: list[str] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.whole)

    def outlines(self, kinds: Sequence[str]) -> Iterator[Outline]:
        """The outline of each record; ``kinds`` are the names of the template's."""
        geometry, ends = self.geometry.tolist(), [0, *self.geometry_ends.tolist()]
        media = [
            (kinds[kind], tuple(geometry[start:end])) for kind, start, end in zip(self.kinds.tolist(), ends, ends[1:])
        ]
        ends = [0, *self.media_ends.tolist()]
        for tokens, start, end in zip(self.tokens.tolist(), ends, ends[1:]):
            yield Outline(tokens, tuple(media[start:end]))

    def counts(self) -> dict[str, tuple[int, int]]:
        """How often records were changed in encoding, by kind in order: the count, and the first record's number."""
        found: dict[str, tuple[int, int]] = {}
        for record, name, count in self.changes.tolist():
            before, first = found.get(self.change_names[name], (0, record))
            found[self.change_names[name]] = before + count, first
        return found

    def stale(self) -> np.ndarray:
        """The records to read anew, by number: those that are broken, and those whose media files have changed."""
        changed = np.array([_state(path) for path in self.paths], np.int64).reshape(-1, 2) != self.states
        outdated = changed.any(axis=1)[self.files] if len(self.files) else np.zeros(0, bool)
        seen = np.concatenate([[0], np.cumsum(outdated)])[np.concatenate([[0], self.file_ends])]
        return np.flatnonzero((np.diff(seen) > 0) | (self.whole == 0))

    def replaced(self, records: np.ndarray, by: Entries) -> Entries:
        """The same with those of some records, whose numbers ascend, replaced."""
        newer = dict(zip(by.paths, by.states))
        for number, path in enumerate(self.paths):
            self.states[number] = newer.get(path, self.states[number])
        parts, start, done = [], 0, 0
        for run in runs(records):
            parts += [self.part(start, run.start), by.part(done, done + len(run))]
            start, done = run.stop, done + len(run)
        return joined([*parts, self.part(start, len(self))])

    def part(self, start: int, end: int) -> Entries:
        """The entries of the records from ``start`` to ``end``."""
        media, files = _bounds(self.media_ends, start, end), _bounds(self.file_ends, start, end)
        numbers = _bounds(self.geometry_ends, media.start, media.stop)
        changes = self.changes[(self.changes[:, 0] >= start) & (self.changes[:, 0] < end)]
        return Entries(
            whole=self.whole[start:end],
            tokens=self.tokens[start:end],
            trained=self.trained[start:end],
            answers=self.answers[start:end],
            digests=self.digests[start:end],
            media_ends=self.media_ends[start:end] - media.start,
            kinds=self.kinds[media],
            geometry_ends=self.geometry_ends[media] - numbers.start,
            geometry=self.geometry[numbers],
            file_ends=self.file_ends[start:end] - files.start,
            files=self.files[files],
            changes=changes - np.array([start, 0, 0], np.int32),
            states=self.states,
            change_names=self.change_names,
            paths=self.paths,
        )


class EntriesBuilder:
    """Entries of records, one after the other."""

    def __init__(self, template: Template):
        self._template = template
        self._kinds = {kind.name: number for number, kind in enumerate(template.kinds)}
        self._rows: list[tuple[int, int, int, int]] = []
        self._digests: list[bytes] = []
        self._media: list[list[tuple[int, tuple[int, ...]]]] = []
        self._files: list[list[int]] = []
        self._changes: list[tuple[int, int, int]] = []
        self._paths: dict[str, int] = {}
        self._names: dict[str, int] = {}

    def add(self, sample: Sample, whole: int, changes: Mapping[str, int]) -> None:
        """A record's sample, its tokens before cutting off, and how often it was changed in encoding."""
        record, paths = len(self._rows), [path for medium in sample.media for path in self._template.files(medium)]
        self._rows.append((whole, len(sample), int(sample.trained.sum()), sample.answer_tokens))
        self._digests.append(digest(sample))
        self._media.append([(self._kinds[medium.kind], medium.geometry) for medium in sample.media])
        self._files.append([self._paths.setdefault(path, len(self._paths)) for path in dict.fromkeys(paths)])
        self._changes += [(record, self._names.setdefault(name, len(self._names)), n) for name, n in changes.items()]

    def add_broken(self) -> None:
        """A record that cannot be read."""
        self._rows.append((0, 0, 0, 0))
        self._digests.append(bytes(DIGEST_BYTES))
        self._media.append([])
        self._files.append([])

    def entries(self) -> Entries:
        """Those that were added."""
        whole, tokens, trained, answers = np.array(self._rows, np.int32).reshape(-1, 4).T
        media = [medium for record in self._media for medium in record]
        return Entries(
            whole=whole,
            tokens=tokens,
            trained=trained,
            answers=answers,
            digests=np.frombuffer(b"".join(self._digests), np.uint8).reshape(-1, DIGEST_BYTES),
            media_ends=_ends(self._media),
            kinds=np.array([kind for kind, _ in media], np.int8),
            geometry_ends=_ends([geometry for _, geometry in media]),
            geometry=np.array([number for _, geometry in media for number in geometry], np.int64),
            file_ends=_ends(self._files),
            files=np.array([number for numbers in self._files for number in numbers], np.int32),
            changes=np.array(self._changes, np.int32).reshape(-1, 3),
            states=np.array([_state(path) for path in self._paths], np.int64).reshape(-1, 2),
            change_names=list(self._names),
            paths=list(self._paths),
        )


def broken(template: Template, count: int) -> Entries:
    """Entries of records that are broken, or not read."""
    builder = EntriesBuilder(template)
    for _ in range(count):
        builder.add_broken()
    return builder.entries()


def runs(records: np.ndarray) -> list[range]:
    """Ascending numbers as ranges of such as follow one another."""
    parts = np.split(records, np.flatnonzero(np.diff(records) > 1) + 1)
    return [range(int(part[0]), int(part[-1]) + 1) for part in parts if len(part)]


def joined(parts: Sequence[Entries]) -> Entries:
    """The entries of all parts, in order."""
    starts = np.cumsum([0, *map(len, parts)])
    names = {name: n for n, name in enumerate(dict.fromkeys(name for part in parts for name in part.change_names))}
    lists = {id(part.paths): part for part in parts}.values()  # parts of one share their paths
    states = {path: state for part in lists for path, state in zip(part.paths, part.states)}
    paths = {path: number for number, path in enumerate(states)}
    changes, files = [np.zeros((0, 3), np.int32)], [np.zeros(0, np.int32)]
    translated: dict[int, np.ndarray] = {}
    for part, start in zip(parts, starts):
        renamed = np.array([names[name] for name in part.change_names], np.int32)
        if len(part.changes):
            record, name, count = part.changes.T
            changes.append(np.stack([record + np.int32(start), renamed[name], count], axis=1))
        if len(part.files):
            if id(part.paths) not in translated:
                translated[id(part.paths)] = np.array([paths[path] for path in part.paths], np.int32)
            files.append(translated[id(part.paths)][part.files])
    return Entries(
        whole=_concatenated([part.whole for part in parts], np.int32),
        tokens=_concatenated([part.tokens for part in parts], np.int32),
        trained=_concatenated([part.trained for part in parts], np.int32),
        answers=_concatenated([part.answers for part in parts], np.int32),
        digests=np.concatenate([np.zeros((0, DIGEST_BYTES), np.uint8), *(part.digests for part in parts)]),
        media_ends=_shifted([part.media_ends for part in parts]),
        kinds=_concatenated([part.kinds for part in parts], np.int8),
        geometry_ends=_shifted([part.geometry_ends for part in parts]),
        geometry=_concatenated([part.geometry for part in parts], np.int64),
        file_ends=_shifted([part.file_ends for part in parts]),
        files=np.concatenate(files),
        changes=np.concatenate(changes),
        states=np.array(list(states.values()), np.int64).reshape(-1, 2),
        change_names=list(names),
        paths=list(paths),
    )


def digest(sample: Sample) -> bytes:
    """Of all that decides what a sample trains, pixels apart. What is usual is left out: digests stay as they were."""
    made = hashlib.blake2b(digest_size=DIGEST_BYTES)
    values: list[Any] = [sample.input_ids, sample.labels, [medium.columns[0] for medium in sample.media]]
    if sample.position_ids.ndim > 1:
        values.append(sample.position_ids.ravel())
    if sample.loss_scale is not None:
        values.append(np.asarray(sample.loss_scale, np.float32).view(np.int32))
    if any(medium.geometry for medium in sample.media):
        values += [medium.geometry for medium in sample.media]
    for each in values:
        array = np.ascontiguousarray(each, np.int64 if isinstance(each, tuple) else np.int32)
        made.update(len(array).to_bytes(8, "little") + array.tobytes())
    return made.digest()


def _state(path: str) -> tuple[int, int]:
    """Size and time of a file."""
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return _GONE, 0
    return status.st_size, status.st_mtime_ns


def _bounds(ends: np.ndarray, start: int, stop: int) -> slice:
    """Which elements belong to the parts from ``start`` to ``stop``."""
    first, last = (int(ends[at - 1]) if at else 0 for at in (start, stop))
    return slice(first, last)


def _ends(parts: Iterable[Sequence[object]]) -> np.ndarray:
    return np.cumsum([len(part) for part in parts], dtype=np.int64)


def _shifted(parts: Sequence[np.ndarray]) -> np.ndarray:
    """Ends of several parts as ends of the whole."""
    shift, found = 0, [np.zeros(0, np.int64)]
    for ends in parts:
        found.append(ends + shift)
        shift = int(found[-1][-1]) if len(ends) else shift
    return np.concatenate(found)


def _concatenated(parts: Sequence[np.ndarray], dtype: type) -> np.ndarray:
    return np.concatenate([np.zeros(0, dtype), *parts])
