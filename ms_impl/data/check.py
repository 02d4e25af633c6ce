"""A whole data set read as training reads it, on all cores: what is in it, and what is broken."""

from __future__ import annotations

import logging
import multiprocessing
import os
import re
import signal
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from tqdm import tqdm

from ms_impl.data.records import Conversation
from ms_impl.data.sample import Outline, Sample
from ms_impl.data.sample_reader import read_sample, record_faults
from ms_impl.data.template import Template
from ms_impl.errors import InputError

_CHUNK = 64  # records that a worker takes at a time
_ID = re.compile(r"^( \(id .*?\))?: ")
_PARTICULARS = re.compile(r"'[^']*'|\"[^\"]*\"|\d[\d,.]*")


class NamedConversations(Protocol):
    """Conversations that have a name before they are read: ``ConversationFile`` and ``Mixture``."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Conversation: ...

    def name(self, index: int) -> str: ...


@dataclass(frozen=True)
class Fault:
    """Why a record is broken: the whole error, and the reason without what is particular to the record."""

    message: str
    reason: str


@dataclass
class Findings:
    """What was found in records.

    ``lengths`` int32 [records]: tokens before cutting off, 0 where a record is broken; ``outlines`` are those of the
    records that are not, after cutting off.
    """

    lengths: np.ndarray
    tokens: int = 0  # after cutting off
    trained: int = 0
    media: Counter[str] = field(default_factory=Counter)  # by kind
    changes: Counter[str] = field(default_factory=Counter)  # the encoder's warnings
    faults: list[Fault] = field(default_factory=list)
    unanswered: list[str] = field(default_factory=list)  # records of whose answers cutting off leaves nothing
    outlines: list[Outline] = field(default_factory=list)

    @classmethod
    def joined(cls, parts: Sequence["Findings"]) -> "Findings":
        """What was found in the records of all parts."""
        return cls(
            lengths=np.concatenate([part.lengths for part in parts]),
            outlines=[outline for part in parts for outline in part.outlines],
            tokens=sum(part.tokens for part in parts),
            trained=sum(part.trained for part in parts),
            media=sum((part.media for part in parts), Counter()),
            changes=sum((part.changes for part in parts), Counter()),
            faults=[fault for part in parts for fault in part.faults],
            unanswered=[record for part in parts for record in part.unanswered],
        )


@dataclass(frozen=True)
class Checker:
    """Reads conversations as training does, and decodes their media."""

    conversations: NamedConversations
    template: Template

    def check(self, indices: Sequence[int]) -> Findings:
        """What is in some of the conversations."""
        self.template.counts.clear()
        findings = Findings(np.zeros(len(indices), np.int32))
        for place, index in enumerate(indices):
            name = self.conversations.name(index)
            try:
                with record_faults(name):
                    findings.lengths[place] = self._check_one(index, findings)
            except InputError as error:
                findings.faults.append(Fault(str(error), _reason(str(error), name)))
        findings.changes.update(self.template.counts)
        return findings

    def sample(self, index: int) -> Sample:
        """The sample of one conversation as it is trained on."""
        return read_sample(self.template, self.conversations[index])[0]

    def _check_one(self, index: int, findings: Findings) -> int:
        sample, length = read_sample(self.template, self.conversations[index])
        try:
            for medium in sample.media:
                self.template.check_medium(medium)
        except InputError as error:
            raise InputError(f"{sample.record}: {error}") from error
        findings.tokens += len(sample)
        findings.trained += int(sample.trained.sum())
        findings.media.update(medium.kind for medium in sample.media)
        findings.outlines.append(sample.outline)
        if not sample.answer_tokens:
            findings.unanswered.append(sample.record)
        return length


def check_all(checker: Checker, workers: int | None = None) -> Findings:
    """What is in all of a checker's conversations, read by ``workers`` processes (as many as there are cores).

    Raises InputError if a process is ended from outside, as the system does where memory runs out.
    """
    records = len(checker.conversations)
    chunks = [range(start, min(start + _CHUNK, records)) for start in range(0, records, _CHUNK)]
    workers = min(workers or len(os.sched_getaffinity(0)), len(chunks))
    parts = []
    with tqdm(total=records, unit=" records", desc="check", disable=None) as progress:
        for part in _in_processes(checker, chunks, workers):
            parts.append(part)
            progress.update(len(part.lengths))
    return Findings.joined(parts)


def _in_processes(checker: Checker, chunks: Sequence[range], workers: int) -> Iterator[Findings]:
    """The findings of each chunk, in order. Processes are spawned: a fork would copy the threads' locks as they are."""
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, context, _start_worker, (checker,))
    try:
        yield from pool.map(_check_chunk, chunks)
    except BrokenProcessPool as error:
        raise InputError("a process of the check was ended, perhaps because memory ran out") from error
    finally:
        pool.shutdown(cancel_futures=True)


_checker: Checker  # of a worker process


def _start_worker(checker: Checker) -> None:
    global _checker
    _checker = checker
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends its workers
    logging.disable()  # what the encoder warns of is counted
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    if parent := multiprocessing.parent_process():
        parent.join()
    os._exit(1)


def _check_chunk(indices: range) -> Findings:
    return _checker.check(indices)


def _reason(message: str, name: str) -> str:
    """An error's message without the record's name, and without numbers and quoted words: the same for its like."""
    return _PARTICULARS.sub("…", _ID.sub("", message.removeprefix(name)))
