"""Keys and values of the beginnings of prompts, kept so that a conversation's next turn does not prefill them again."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Iterable, Sequence

import numpy as np

from ms_impl.cells.kv_cache import LayerCache

Columns = list[tuple[np.ndarray, np.ndarray]]  # keys and values of a chunk's columns, by layer


class KeptPrefixes:
    """Whole chunks of prompts, by everything that they were computed from. The weights must not change.

    A chunk of the same width at the same column, with the same inputs after the same chunks, has the same bits in
    every prompt: they are kept as they were computed, so that an answer has the bits that it would have without.

    Args:
        room: bytes; the chunks not used for longest give way, later ones of a prompt before earlier ones.
    """

    def __init__(self, room: int):
        self.room = room
        self.used = self.hits = 0
        self._kept: OrderedDict[bytes, Columns] = OrderedDict()

    def get(self, name: bytes) -> Columns | None:
        """Keys and values of a chunk by a name of ``chunk_name``."""
        if found := self._kept.get(name):
            self.hits += 1
        return found

    def put(self, name: bytes, columns: Columns) -> None:
        """Keep the keys and values of a chunk."""
        if name in self._kept:
            return
        self._kept[name] = columns
        self.used += _size(columns)
        while self.used > self.room:
            self.used -= _size(self._kept.popitem(last=False)[1])

    def clear(self) -> None:
        """Forget all of them."""
        self._kept.clear()
        self.used = 0

    def touch(self, names: Sequence[bytes]) -> None:
        """The chunks of a prompt, in order, were used: the first will be the last to give way."""
        for name in reversed(names):
            if name in self._kept:
                self._kept.move_to_end(name)


class PromptPrefix:
    """The beginning of one prompt, chunk by chunk, in the first row of a cache. ``kept``: None keeps nothing."""

    def __init__(self, kept: KeptPrefixes | None, cache: Sequence[LayerCache]):
        self.kept, self.cache = kept, cache
        self.names: list[bytes] = []

    def found(self, start: int, arrays: Sequence[np.ndarray | None]) -> bool:
        """Whether the next chunk, from column ``start`` on, was kept; then it is in the cache.

        ``arrays``: all that it is computed from.
        """
        if self.kept is None:
            return False
        self.names.append(chunk_name(self.names[-1] if self.names else b"", arrays))
        columns = self.kept.get(self.names[-1])
        for layer, (keys, values) in zip(self.cache, columns or ()):
            layer.put_columns(0, start, keys, values)
        self.kept.touch(self.names)
        return columns is not None

    @property
    def last_name(self) -> bytes:
        """The name of the chunk that was looked for last; b"" where nothing is kept."""
        return self.names[-1] if self.names else b""

    def keep(self, name: bytes, start: int, width: int) -> None:
        """Keep the chunk of that name, which was not found and is now in the cache."""
        if self.kept is None:
            return
        views = [layer.columns(0, start, start + width) for layer in self.cache]
        self.kept.put(name, [(keys.copy(), values.copy()) for keys, values in views])
        self.kept.touch(self.names)


def chunk_name(before: bytes, arrays: Iterable[np.ndarray | None]) -> bytes:
    """A digest of what a chunk is computed from, and of the name of the one before it; b"" before the first."""
    digest = hashlib.blake2b(before, digest_size=20)
    for array in arrays:
        if array is None:
            digest.update(b"none ")
        else:
            digest.update(f"{array.dtype} {array.shape} ".encode())
            digest.update(np.ascontiguousarray(array))
    return digest.digest()


def _size(columns: Columns) -> int:
    return sum(keys.nbytes + values.nbytes for keys, values in columns)
