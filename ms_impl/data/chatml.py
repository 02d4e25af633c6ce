"""ChatML, the mark-up of conversations that Qwen models share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

SYSTEM_MESSAGE = "You are a helpful assistant."
SYSTEM, USER, ASSISTANT = "system", "user", "assistant"


class ImageSlots(NamedTuple):
    """One image in a token sequence: the column of its first slot (the one after ``<img>``), and its path."""

    column: int
    path: str


class ChatTokenizer(Protocol):
    """What conversations ask of a family's tokenizer."""

    im_start_id: int
    im_end_id: int
    num_queries: int

    def encode_message(self, text: str) -> list[int]:
        """Token ids of a message's content, in which no text can end the message."""

    def decode(self, ids: Sequence[int]) -> str:
        """The text of token ids, special ones and the paths of images included."""

    def find_images(self, ids: Sequence[int]) -> list[ImageSlots]:
        """The images of a token sequence, in order."""


def message_ids(tokenizer: ChatTokenizer, role: str, content: str) -> list[int]:
    """``<|im_start|>`` role, newline, content, ``<|im_end|>``, newline."""
    return framed_ids(tokenizer, role, tokenizer.encode_message(content))


def framed_ids(tokenizer: ChatTokenizer, role: str, body: Sequence[int]) -> list[int]:
    """The same around a content that is token ids already."""
    return [*opening_ids(tokenizer, role), *body, tokenizer.im_end_id, *tokenizer.encode_message("\n")]


def opening_ids(tokenizer: ChatTokenizer, role: str) -> list[int]:
    """``<|im_start|>`` role, newline: what stands before a message's content."""
    return [tokenizer.im_start_id, *tokenizer.encode_message(f"{role}\n")]
