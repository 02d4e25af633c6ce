"""Conversations → ids and labels, as the official fine-tuning makes them (``finetune.py``)."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from ms_impl.data.chatml import ASSISTANT, SYSTEM, ChatTokenizer, message_ids, opening_ids
from ms_impl.data.conversations import Message
from ms_impl.data.sample import IGNORED
from ms_impl.data.tags import shorten, split_tags
from ms_impl.errors import InputError

_NUMBER = re.compile(r"-?\d+")
_MOST = 999  # of a coordinate


def labelled(tokenizer: ChatTokenizer, system: str, turns: Sequence[Message]) -> tuple[list[int], list[int]]:
    """Token ids of a conversation, and their labels.

    In system and user messages only ``<|im_start|>``, ``<|im_end|>`` and the final newline are trained; in an
    assistant's also the content; in one that its record excludes (``"loss": false``) nothing. One departure from the
    original: in a message only the image, ref, box and quad tags are special, so that a literal ``<|im_end|>`` in the
    data stays text.
    """
    ids: list[int] = []
    labels: list[int] = []
    for turn in (Message(SYSTEM, system), *turns):
        message = message_ids(tokenizer, turn.role, turn.content)
        ids += message
        excluded = turn.role == ASSISTANT and not turn.trained
        labels += [IGNORED] * len(message) if excluded else _labels(tokenizer, turn.role, message)
    return ids, labels


def check_boxes(turns: Sequence[Message], count: Callable[[str], None]) -> None:
    """Coordinates are thousandths; 1000, the outcome of rounding, is counted, what lies beyond is an InputError."""
    for tag, content in (piece for turn in turns for piece in split_tags(turn.text)):
        if tag in ("box", "quad"):
            outside = [number for number in _NUMBER.findall(content) if _is_outside(number)]
            if wrong := [number for number in outside if number != "1000"]:
                raise InputError(
                    f"coordinate {shorten(wrong[0])} in <{tag}>{shorten(content)}</{tag}> lies outside 0–{_MOST}: "
                    "boxes are in thousandths of the image's sides"
                )
            if outside:
                count(f"coordinate 1000 in a box (0–{_MOST} are meant)")


def _labels(tokenizer: ChatTokenizer, role: str, message: list[int]) -> list[int]:
    closing = len(message) - 2  # <|im_end|> and the newline, one token each
    first = len(opening_ids(tokenizer, role)) if role == ASSISTANT else closing
    return [message[0], *[IGNORED] * (first - 1), *message[first:]]


def _is_outside(number: str) -> bool:
    """Whether a number's text, of any length, is outside 0–999."""
    digits = number.lstrip("-").lstrip("0")
    return len(digits) > 3 or bool(digits) and number.startswith("-")
