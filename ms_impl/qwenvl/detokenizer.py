"""Token ids → text, one token after another, so that a growing answer costs the same at each step."""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Iterator
from typing import Protocol

BYTES = 256


class ImageIds(Protocol):
    """What a reader asks of a tokenizer."""

    num_queries: int
    image_start_id: int
    image_end_id: int
    image_pad_id: int

    def bytes_of(self, token: int) -> bytes:
        """The bytes of one token."""


class PieceReader:
    """Token ids → (id, bytes); an image's path is one piece, under the id of its first byte.

    An open ``<img>`` is held until it is clear whether an image follows: path and padding in all slots, ``</img>``.
    If none does, the tags are pieces like any others.
    """

    def __init__(self, tokenizer: ImageIds):
        self._tokenizer = tokenizer
        self._held: list[int] = []  # <img> and what followed it
        self._path = 0  # how many of those are bytes of the path

    def add(self, token: int) -> list[tuple[int, bytes]]:
        """The pieces that became certain with this token."""
        if not self._held:
            if token != self._tokenizer.image_start_id:
                return [self._plain(token)]
            self._held, self._path = [token], 0
            return []
        if not self._fits(token):
            return [*self.finish(), *self.add(token)]
        self._held.append(token)
        return self._image() if len(self._held) == self._tokenizer.num_queries + 2 else []

    def finish(self) -> list[tuple[int, bytes]]:
        """What was held, as it stands: no image has come of it."""
        held, self._held = self._held, []
        return [self._plain(token) for token in held]

    def _fits(self, token: int) -> bool:
        """Whether the token may stand next in an image."""
        slots = len(self._held) - 1
        if slots == self._tokenizer.num_queries:
            return token == self._tokenizer.image_end_id
        if slots == self._path and 0 <= token < BYTES:
            self._path += 1
            return True
        return token == self._tokenizer.image_pad_id and self._path > 0

    def _image(self) -> list[tuple[int, bytes]]:
        start, *slots, end = self._held
        path = bytes(slots[: self._path])
        self._held = []
        return [self._plain(start), (path[0], path), self._plain(end)]

    def _plain(self, token: int) -> tuple[int, bytes]:
        return token, self._tokenizer.bytes_of(token)


class Detokenizer:
    """The text of an answer while it grows; the texts joined are ``tokenizer.decode`` of all tokens.

    Held back are an open ``<img>``, see ``PieceReader``, and the bytes of an unfinished character.
    """

    def __init__(self, tokenizer: ImageIds):
        self._pieces = PieceReader(tokenizer)
        self._characters = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def add(self, token: int) -> str:
        """The text that became certain with this token; may be empty."""
        return "".join(self._characters.decode(piece) for _, piece in self._pieces.add(token))

    def finish(self) -> str:
        """The text that was held back."""
        held = b"".join(piece for _, piece in self._pieces.finish())
        return self._characters.decode(held, final=True)


def pieces(tokenizer: ImageIds, ids: Iterable[int]) -> Iterator[tuple[int, bytes]]:
    """All ids with their bytes, as ``PieceReader`` has them."""
    reader = PieceReader(tokenizer)
    for token in ids:
        yield from reader.add(token)
    yield from reader.finish()
