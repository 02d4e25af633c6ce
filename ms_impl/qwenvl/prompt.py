"""Qwen-VL's prompts: ChatML contexts and stop words (``qwen_generation_utils.py`` of the original)."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from typing import Any

from ms_impl.data.chatml import ASSISTANT, CHATML, SYSTEM, SYSTEM_MESSAGE, USER, framed_ids, message_ids, opening_ids
from ms_impl.data.tags import IMAGE_START, split_tags
from ms_impl.errors import InputError, listed, quote
from ms_impl.qwenvl.list_format import from_list_format, to_list_format
from ms_impl.qwenvl.tokenizer import QwenVLTokenizer

__all__ = ["from_list_format", "latest_image", "make_context", "stop_words", "to_list_format"]

logger = logging.getLogger(__name__)

MAX_WINDOW_SIZE = 6144  # tokens of system message and history; the released generation_config.json
RAW = "raw"

Unshowable = Callable[[str], str | None]

Turn = tuple[str, str | None]
History = Sequence[Turn]


def turns_of(history: Any) -> list[Turn]:
    """A history's (query, answer) pairs. Raises InputError, naming the turn, for anything else."""
    expected = "history: expected a list of (query, answer) pairs of text"
    if history is None:
        return []
    if isinstance(history, (str, bytes, Mapping)) or not isinstance(history, Sequence):
        raise InputError(f"{expected}, not {quote(history)}")
    for number, turn in enumerate(history, start=1):
        pair = isinstance(turn, Sequence) and not isinstance(turn, (str, bytes)) and len(turn) == 2
        if not pair or not isinstance(turn[0], str) or not isinstance(turn[1], str | None):
            raise InputError(f"{expected}; turn {number} is {quote(turn)}. An answer may be None")
    return [(question, answer) for question, answer in history]


def make_context(
    tokenizer: QwenVLTokenizer,
    query: str,
    history: History | None = None,
    system: str = SYSTEM_MESSAGE,
    max_window_size: int = MAX_WINDOW_SIZE,
    unshowable: Unshowable | None = None,
) -> list[int]:
    """Token ids of a ChatML conversation that ends where the assistant's answer to ``query`` begins.

    ``history`` holds (query, answer) pairs, oldest first; where the answer is None, the query stands alone. The oldest
    are left out, with a warning, as soon as they and the system message would exceed ``max_window_size`` tokens; the
    query is not counted, as in the original.

    An earlier answer is the model's own, and may speak of ``<img>`` without showing an image: it is then text, with a
    warning. So it is where ``unshowable`` says of a path why its image cannot be shown.
    """
    for name, text in {"query": query, "system": system}.items():
        if not isinstance(text, str):
            raise InputError(f"{name} must be text, not {quote(text)}")
    past = turns_of(history)
    opening = message_ids(tokenizer, SYSTEM, system)
    later = message_ids(tokenizer, USER, query)
    turns: list[list[int]] = []  # the newest first
    room = max_window_size - len(opening)
    for question, answer in reversed(past):
        turn = message_ids(tokenizer, USER, question)
        if answer is not None:
            turn += framed_ids(tokenizer, ASSISTANT, answer_ids(tokenizer, answer, unshowable))
        room -= len(turn)
        if room < 0:
            _warn_of_left_out(past, len(past) - len(turns), query, max_window_size)
            break
        turns.append(turn)
    return [*opening, *chain.from_iterable(reversed(turns)), *later, *opening_ids(tokenizer, ASSISTANT)]


def answer_ids(tokenizer: QwenVLTokenizer, answer: str, unshowable: Unshowable | None = None) -> list[int]:
    """Token ids of an earlier answer. Where its image mark-up shows no image, it is text, with a warning."""
    try:
        ids = tokenizer.encode_message(answer)
        images = tokenizer.find_images(ids)
        problem = next(filter(None, (unshowable(image.path) for image in images)), None) if unshowable else None
    except InputError as error:
        if IMAGE_START not in answer:
            raise
        problem = str(error)
    if problem is None:
        return ids
    logger.warning("an earlier answer mentions %s and shows no image, so it is text (%s)", IMAGE_START, problem)
    return tokenizer.encode_text(answer)


def _warn_of_left_out(past: Sequence[Turn], left_out: int, query: str, window: int) -> None:
    """Tell of the oldest turns that the window drops, and of images that no later turn shows."""
    shown = {path for question, _ in [*past[left_out:], (query, None)] for path in _shown(question)}
    gone = [path for question, _ in past[:left_out] for path in _shown(question) if path not in shown]
    images = f"; the model no longer sees: {listed(dict.fromkeys(gone), 3)}" if gone else ""
    logger.warning(
        "left out the oldest %d turn%s: the window has %d tokens%s", left_out, "s"[: left_out != 1], window, images
    )


def _shown(question: str) -> list[str]:
    return [path for tag, path in split_tags(question) if tag == "img"]


def stop_words(tokenizer: QwenVLTokenizer, chat_format: str) -> list[list[int]]:
    """The token sequences that end an answer in ``chat_format`` (``chatml`` or ``raw``)."""
    if chat_format == CHATML:
        return [[tokenizer.im_end_id], [tokenizer.im_start_id]]
    if chat_format == RAW:
        return [tokenizer.encode("Human:"), [tokenizer.eod_id]]
    raise InputError(f"unknown chat format {chat_format!r}; known: {CHATML}, {RAW}")


def latest_image(query: str, history: History | None = None) -> str | None:
    """The path of the last image shown in the questions: the one that boxes in an answer refer to."""
    for question in (query, *(question for question, _ in reversed(history or ()))):
        if paths := [element["image"] for element in to_list_format(question) if "image" in element]:
            return paths[-1]
    return None
