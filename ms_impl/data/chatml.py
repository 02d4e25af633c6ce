"""ChatML, the mark-up of conversations that several families share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from ms_impl.data.sample import IGNORED

CHATML = "chatml"  # its name in generation_config.json; training writes nothing else
SYSTEM_MESSAGE = "You are a helpful assistant."
SYSTEM, USER, ASSISTANT = "system", "user", "assistant"


class ChatTokenizer(Protocol):
    """What conversations ask of a family's tokenizer."""

    im_start_id: int
    im_end_id: int

    def encode_message(self, text: str) -> list[int]:
        """Token ids of a message's content, in which no text can end the message."""


def message_ids(tokenizer: ChatTokenizer, role: str, content: str) -> list[int]:
    """``<|im_start|>`` role, newline, content, ``<|im_end|>``, newline."""
    return framed_ids(tokenizer, role, tokenizer.encode_message(content))


def framed_ids(tokenizer: ChatTokenizer, role: str, body: Sequence[int]) -> list[int]:
    """The same around a content that is token ids already."""
    return [*opening_ids(tokenizer, role), *body, tokenizer.im_end_id, *tokenizer.encode_message("\n")]


def opening_ids(tokenizer: ChatTokenizer, role: str) -> list[int]:
    """``<|im_start|>`` role, newline: what stands before a message's content."""
    return [tokenizer.im_start_id, *tokenizer.encode_message(f"{role}\n")]


def answer_tokens(tokenizer: ChatTokenizer, ids: np.ndarray, labels: np.ndarray) -> int:
    """How many tokens of answers a sample trains; ChatML's markers, which may be trained everywhere, do not count."""
    markers = np.isin(ids, (tokenizer.im_start_id, tokenizer.im_end_id))
    markers[1:] |= ids[:-1] == tokenizer.im_end_id  # the newline that follows
    return int(((labels != IGNORED) & ~markers).sum())
