"""What is known of the records of files: from the index of an earlier run, or read now on all cores and kept."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from ms_impl.data.encoded_records import Entries, broken, joined, runs
from ms_impl.data.files import ConversationFile
from ms_impl.data.record_reading import Reading, RecordReader, WorkerEnded, chunked, cores, in_processes
from ms_impl.data.sample_index import index_name, load, save
from ms_impl.data.template import Template
from ms_impl.errors import InputError
from ms_impl.io.file_lock import FileLock
from ms_impl.user_cache import cache_folder

logger = logging.getLogger(__name__)

WORTH_KEEPING = 1.0  # seconds of reading: what takes less is read anew at each start
FOLDER = "samples"  # of the user's cache
_PATIENCE = 5  # seconds of reading that are not worth starting processes
_MOST_RUNS = 1000  # of records read anew between others; where there are more, all are
_POLL = 0.2  # seconds


def known_entries(file: ConversationFile, template: Template, show_progress: bool = False) -> Entries:
    """What is known of a file's records.

    Of several processes that ask at once, one reads and the others wait for it, where they share the user's cache.
    Raises InputError for the first record that has a fault.
    """
    path = _index_path(file, template)
    with _alone(path.with_suffix(".lock")) if path else nullcontext():
        began = time.monotonic()
        entries = load(path, len(file), len(template.kinds)) if path else None
        stale = np.arange(len(file)) if entries is None else entries.stale()
        if entries is None or len(runs(stale)) > _MOST_RUNS:
            entries, fault = _read(file, template, np.arange(len(file)), show_progress)
        else:
            read, fault = _read(file, template, stale, show_progress)
            entries = entries.replaced(stale, read)
        if path and len(stale) and time.monotonic() - began > WORTH_KEEPING:
            _keep(entries, path)  # with a fault, too: who asks next comes to it at once
    if fault:
        raise InputError(fault)
    return entries


def keep_index(conversations: Any, template: Template, entries: Entries, seconds: float) -> None:
    """Keep what reading the conversations of files for so long found, for the next run; of others nothing is kept."""
    if seconds <= WORTH_KEEPING:
        return
    start = 0
    for file in getattr(conversations, "files", [conversations]):
        if isinstance(file, ConversationFile) and (path := _index_path(file, template)):
            _keep(entries.part(start, start + len(file)), path)
        start += len(file)


def _read(
    file: ConversationFile, template: Template, records: np.ndarray, show_progress: bool
) -> tuple[Entries, str | None]:
    """Records read up to the first fault, if there is one: in this process, and where that takes long, on all cores."""
    hidden = None if show_progress else True  # None: unless it is a terminal
    parts: list[Entries] = [broken(template, 0)]
    fault = None
    with tqdm(total=len(records), desc="reading conversations", disable=hidden, delay=2) as progress:
        for reading in _readings(RecordReader(file, template), records.tolist()):
            parts.append(reading.entries)
            progress.update(len(reading.entries))
            if reading.faults:
                fault = reading.faults[0].message
                break
    return joined([*parts, broken(template, len(records) - sum(map(len, parts)))]), fault


def _readings(reader: RecordReader, records: list[int]) -> Iterator[Reading]:
    chunks, done, began = chunked(records), 0, time.monotonic()
    for chunk in chunks:
        yield reader.read(chunk)
        done += 1
        spent = time.monotonic() - began
        if cores() > 1 and spent / done * (len(chunks) - done) > _PATIENCE:
            break
    rest = in_processes(reader, chunks[done:], cores(), "reading of the data") if done < len(chunks) else iter(())
    try:
        for reading in rest:
            done += 1
            yield reading
    except WorkerEnded as error:
        logger.warning("%s; reading on in one process", error)
        yield from map(reader.read, chunks[done:])


def _index_path(file: ConversationFile, template: Template) -> Path | None:
    try:
        return cache_folder(FOLDER) / index_name(file.sha256, len(file), template)
    except OSError as error:
        logger.warning("what is known of %s is not kept (%s)", file.path, error)
        return None


def _keep(entries: Entries, path: Path) -> None:
    try:
        save(entries, path)
    except OSError as error:
        logger.warning("%s cannot be written (%s); the records are read anew at the next start", path, error.strerror)


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Hold a lock, waiting for the process that has it; without one where it cannot be made."""
    lock = FileLock(path)
    try:
        while not lock.acquire():
            time.sleep(_POLL)
    except OSError:
        pass  # both would read, and write the same
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        lock.release()
