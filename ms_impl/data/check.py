"""A whole data set read as training reads it, on all cores: what is in it, and what is broken."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from tqdm import tqdm

from ms_impl.data.encoded_records import joined
from ms_impl.data.indexed_reading import keep_index
from ms_impl.data.record_reading import NamedConversations, Reading, RecordReader, chunked, cores, in_processes
from ms_impl.data.sample import Outline, Sample
from ms_impl.data.sample_reader import read_sample
from ms_impl.data.template import Template

_ID = re.compile(r"^( \(id .*?\))?: ")
_PARTICULARS = re.compile(r"'[^']*'|\"[^\"]*\"|\d[\d,.]*")


@dataclass(frozen=True)
class Fault:
    """Why a record is broken: the whole error, and the reason without what is particular to the record."""

    message: str
    reason: str


@dataclass
class Findings:
    """What was found in records.

    ``lengths`` int32 [records]: tokens before cutting off, 0 where a record is broken; ``outlines`` are those of the
    records, after cutting off.
    """

    lengths: np.ndarray
    tokens: int = 0  # after cutting off
    trained: int = 0
    media: Counter[str] = field(default_factory=Counter)  # by kind
    changes: Counter[str] = field(default_factory=Counter)  # the template's warnings
    faults: list[Fault] = field(default_factory=list)
    unanswered: list[str] = field(default_factory=list)  # records of whose answers cutting off leaves nothing
    outlines: list[Outline] = field(default_factory=list)

    @classmethod
    def of(cls, parts: Sequence[Reading], kinds: Sequence[str]) -> Findings:
        """What reading found in the records of all parts."""
        entries = joined([part.entries for part in parts])
        return cls(
            lengths=entries.whole,
            tokens=int(entries.tokens.sum()),
            trained=int(entries.trained.sum()),
            media=Counter({kinds[kind]: count for kind, count in enumerate(np.bincount(entries.kinds)) if count}),
            changes=Counter({name: count for name, (count, _) in entries.counts().items()}),
            faults=[Fault(each.message, _reason(each.message, each.name)) for part in parts for each in part.faults],
            unanswered=[record for part in parts for record in part.unanswered],
            outlines=list(entries.outlines(kinds)),
        )


@dataclass(frozen=True)
class Checker:
    """Reads conversations as training does, and decodes their media."""

    conversations: NamedConversations
    template: Template

    def check(self, indices: Sequence[int]) -> Findings:
        """What is in some of the conversations."""
        return Findings.of([self.reader.read(indices)], self.kinds)

    def sample(self, index: int) -> Sample:
        """The sample of one conversation as it is trained on."""
        return read_sample(self.template, self.conversations[index])[0]

    @property
    def kinds(self) -> list[str]:
        """The names of the media's kinds."""
        return [kind.name for kind in self.template.kinds]

    @cached_property
    def reader(self) -> RecordReader:
        """What reads the conversations."""
        return RecordReader(self.conversations, self.template, decodes=True)


def check_all(checker: Checker, workers: int | None = None) -> Findings:
    """What is in all of a checker's conversations, read by ``workers`` processes (as many as there are cores).

    What is known of them then is kept for training. Raises InputError if a process is ended from outside, as the system
    does where memory runs out.
    """
    began = time.monotonic()
    chunks = chunked(range(len(checker.conversations)))
    workers = min(workers or cores(), len(chunks))
    parts = []
    with tqdm(total=len(checker.conversations), unit=" records", desc="check", disable=None) as progress:
        for part in in_processes(checker.reader, chunks, workers, "check"):
            parts.append(part)
            progress.update(len(part.entries))
    entries = joined([part.entries for part in parts])
    keep_index(checker.conversations, checker.template, entries, time.monotonic() - began)
    return Findings.of(parts, checker.kinds)


def _reason(message: str, name: str) -> str:
    """An error's message without the record's name, and without numbers and quoted words: the same for its like."""
    return _PARTICULARS.sub("…", _ID.sub("", message.removeprefix(name)))
