"""Ovis2.5's prompts and labels, as token ids (the original's ``Qwen3ConversationFormatter``). numpy only.

In these ids a visual is one negative number, and after ``expand_visuals`` one for each of its tokens, as in the
original. They never leave the template.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple, Protocol

from ms_impl.errors import InputError, quote

IMAGE_ID, VIDEO_ID, ATOM_ID = -200, -201, -300
IMAGE_INDICATORS, VIDEO_INDICATORS = (-301, -302), (-303, -304)  # begin, end
IGNORED = -100

EMPTY_THINKING = "<think>\n\n</think>\n\n"
HUMAN, ANSWER, UNTRAINED_ANSWER, SYSTEM = "human", "gpt", "ignored_gpt", "system"
_OPENINGS = {
    SYSTEM: "<|im_start|>system\n", HUMAN: "<|im_start|>user\n", ANSWER: "<|im_start|>assistant\n",
    UNTRAINED_ANSWER: "<|im_start|>assistant\n",
}  # fmt: skip
_CLOSING = "<|im_end|>\n"
_VISUAL = re.compile("(<image>|<video>)")
_VISUAL_IDS = {"<image>": IMAGE_ID, "<video>": VIDEO_ID}


class Encoder(Protocol):
    """A tokenizer that every special token counts for."""

    def encode(self, text: str) -> list[int]: ...


class Message(NamedTuple):
    """One turn: ``role`` is one of the original's words for it."""

    role: str
    text: str


class Formatted(NamedTuple):
    """Ids and labels of one length."""

    input_ids: list[int]
    labels: list[int]


class Formatter:
    """Conversations to ids, with the model's tokenizer."""

    def __init__(self, tokenizer: Encoder):
        self.tokenizer = tokenizer
        # Of an answer: what stands before its thinking, and before the answer where it does not think.
        self.opening_tokens = len(tokenizer.encode(_OPENINGS[ANSWER]))
        self.opening_tokens_without_thinking = len(tokenizer.encode(_OPENINGS[ANSWER] + EMPTY_THINKING))

    def conversation(self, messages: Sequence[Message]) -> Formatted:
        """A conversation to train on.

        Labels are the answers with their ``<|im_end|>``. An answer without ``<think>`` and ``</think>`` gets the empty
        thinking block, which is not trained. The newline after a last answer is dropped.
        """
        ids: list[int] = []
        labels: list[int] = []
        for message in messages:
            thinks = message.role != ANSWER or ("<think>" in message.text and "</think>" in message.text)
            tokens = self.encode(opening(message) + ("" if thinks else EMPTY_THINKING) + message.text + _CLOSING)
            ids += tokens
            first = self.opening_tokens if thinks else self.opening_tokens_without_thinking
            trained = tokens[first:-1] if message.role == ANSWER else []
            labels += [IGNORED] * (len(tokens) - 1 - len(trained)) + trained + [IGNORED]
        if messages and messages[-1].role == ANSWER:
            del ids[-1], labels[-1]
        return Formatted(ids, labels)

    def prompt(self, messages: Sequence[Message], preface: str) -> list[int]:
        """Ids up to where the next answer begins; ``preface`` is "" for one that thinks, else the empty block."""
        parts = [opening(message) + message.text + _CLOSING for message in messages]
        return [token for part in [*parts, _OPENINGS[ANSWER] + preface] for token in self.encode(part)]

    def encode(self, text: str) -> list[int]:
        """Ids of a text; each ``<image>`` and ``<video>`` in it is one negative id."""
        ids: list[int] = []
        for part in _VISUAL.split(text):
            if part in _VISUAL_IDS:
                ids.append(_VISUAL_IDS[part])
            elif part:
                ids += self.tokenizer.encode(part)
        return ids


def opening(message: Message) -> str:
    """What stands before a message's text."""
    if message.role not in _OPENINGS:
        raise InputError(f"unknown role {quote(message.role)}; known: {', '.join(_OPENINGS)}")
    return _OPENINGS[message.role]


def expand_visuals(ids: Sequence[int], tokens: Iterable[int]) -> list[int]:
    """Ids in which each visual is its begin, as many atoms as ``tokens`` says for it, and its end."""
    expanded: list[int] = []
    counts = iter(tokens)
    for token in ids:
        if token in (IMAGE_ID, VIDEO_ID):
            begin, end = IMAGE_INDICATORS if token == IMAGE_ID else VIDEO_INDICATORS
            expanded += [begin, *[ATOM_ID] * next(counts), end]
        else:
            expanded.append(token)
    return expanded


def cut_length(ids: Sequence[int], length: int) -> int:
    """How many of expanded ids stay where ``length`` are allowed, so that no visual is cut.

    Where the last would be in the middle of one, all goes that stands after the last token of text: a visual right
    before it, too, as in the original.
    """
    if len(ids) <= length:
        return len(ids)
    if length and ids[length - 1] in (ATOM_ID, IMAGE_INDICATORS[0], VIDEO_INDICATORS[0]):
        return max((column + 1 for column, token in enumerate(ids[:length]) if token >= 0), default=0)
    return length
