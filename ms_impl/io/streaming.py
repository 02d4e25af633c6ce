"""Reading and converting in a second thread while the first one writes."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, BinaryIO, TypeVar

T = TypeVar("T")

DEPTH = 4  # items that may be ready before they are wanted
WRITE_BYTES = 64 << 10  # as ``cp`` does: for larger writes the kernel looks for larger pages, which can cost far more

_END: Any = object()


def read_ahead(items: Iterator[T]) -> Iterator[T]:
    """The same items in the same order, the next ones being made while one is used.

    What making one raises is raised in its place. Reading, casting and writing of large blocks leave the interpreter
    free, so that two threads keep two cores busy.
    """
    with ThreadPoolExecutor(max_workers=1) as worker:
        ahead = deque(worker.submit(next, items, _END) for _ in range(DEPTH))
        while (item := ahead.popleft().result()) is not _END:
            ahead.append(worker.submit(next, items, _END))
            yield item


def write_bytes(file: BinaryIO, data: memoryview) -> None:
    """Write all of ``data`` (bytes), by and by."""
    for start in range(0, len(data), WRITE_BYTES):
        file.write(data[start : start + WRITE_BYTES])
