"""Many records read to samples, in this process or on all cores: what is known of each, and what is broken."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from typing import Protocol

from ms_impl.data.encoded_records import Entries, EntriesBuilder
from ms_impl.data.records import Conversation
from ms_impl.data.sample_reader import read_sample, record_faults
from ms_impl.data.template import Template
from ms_impl.errors import InputError

CHUNK = 64  # records that a process takes at a time


class WorkerEnded(InputError):
    """A process that read was ended from outside."""


class NamedConversations(Protocol):
    """Conversations that have a name before they are read: ``ConversationFile`` and ``Mixture``."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Conversation: ...

    def name(self, index: int) -> str: ...


@dataclass(frozen=True)
class Fault:
    """A broken record: the name that it has before it is read, and the error."""

    name: str
    message: str


@dataclass
class Reading:
    """What reading some records found. ``unanswered`` names those without a token of an answer."""

    entries: Entries
    faults: list[Fault] = field(default_factory=list)
    unanswered: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class RecordReader:
    """Reads conversations as training does; with ``decodes`` their media, too."""

    conversations: NamedConversations
    template: Template
    decodes: bool = False

    def read(self, indices: Sequence[int]) -> Reading:
        """What is known of some of the conversations."""
        builder = EntriesBuilder(self.template)
        faults, unanswered = [], []
        for index in indices:
            name = self.conversations.name(index)
            try:
                with record_faults(name):
                    unanswered += self._add(index, builder)
            except InputError as error:
                builder.add_broken()
                faults.append(Fault(name, str(error)))
        return Reading(builder.entries(), faults, unanswered)

    def _add(self, index: int, builder: EntriesBuilder) -> list[str]:
        """Add one record; its name, if none of its answers is left."""
        self.template.counts.clear()
        sample, whole = read_sample(self.template, self.conversations[index])
        if self.decodes:
            try:
                for medium in sample.media:
                    self.template.check_medium(medium)
            except InputError as error:
                raise InputError(f"{sample.record}: {error}") from error
        builder.add(sample, whole, self.template.counts)
        return [] if sample.answer_tokens else [sample.record]


def in_processes(reader: RecordReader, chunks: Sequence[Sequence[int]], workers: int, task: str) -> Iterator[Reading]:
    """What is known of each chunk, in order, read by so many processes.

    They are spawned: a fork would copy the threads' locks as they are. Raises WorkerEnded if one is ended from outside,
    as the system does where memory runs out.
    """
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, context, _start_worker, (reader,))
    try:
        yield from pool.map(_read_chunk, chunks)
    except BrokenProcessPool as error:
        raise WorkerEnded(f"a process of the {task} was ended, perhaps because memory ran out") from error
    finally:
        pool.shutdown(cancel_futures=True)


def chunked(indices: Sequence[int]) -> list[Sequence[int]]:
    """Parts for processes to take."""
    return [indices[start : start + CHUNK] for start in range(0, len(indices), CHUNK)]


def cores() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0))


_reader: RecordReader  # of a worker process


def _start_worker(reader: RecordReader) -> None:
    global _reader
    _reader = reader
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends its workers
    logging.disable()  # what the template warns of is counted
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    if parent := multiprocessing.parent_process():
        parent.join()
    os._exit(1)


def _read_chunk(indices: Sequence[int]) -> Reading:
    return _reader.read(indices)
