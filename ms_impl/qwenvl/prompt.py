"""Qwen-VL's prompts: ChatML contexts, stop words, list format (``qwen_generation_utils.py`` of the original)."""

from __future__ import annotations

import logging
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

from ms_impl.data.chatml import ASSISTANT, CHATML, SYSTEM, SYSTEM_MESSAGE, USER, message_ids, opening_ids
from ms_impl.data.tags import image_tag, split_tags
from ms_impl.errors import InputError
from ms_impl.qwenvl.tokenizer import IMAGE_END, IMAGE_START, QwenVLTokenizer

logger = logging.getLogger(__name__)

MAX_WINDOW_SIZE = 6144  # tokens of system message and history; the released generation_config.json
RAW = "raw"

History = Sequence[tuple[str, str]]


def make_context(
    tokenizer: QwenVLTokenizer,
    query: str,
    history: History | None = None,
    system: str = SYSTEM_MESSAGE,
    max_window_size: int = MAX_WINDOW_SIZE,
) -> list[int]:
    """Token ids of a ChatML conversation that ends where the assistant's answer to ``query`` begins.

    ``history`` holds (query, response) pairs, oldest first. The oldest are left out, with a warning, as soon as they
    and the system message would exceed ``max_window_size`` tokens; the query is not counted, as in the original.
    """
    opening = message_ids(tokenizer, SYSTEM, system)
    turns: list[int] = []
    for kept, (question, answer) in enumerate(reversed(history or ())):
        turn = message_ids(tokenizer, USER, question) + message_ids(tokenizer, ASSISTANT, answer)
        if len(opening) + len(turn) + len(turns) > max_window_size:
            left_out = len(history) - kept
            logger.warning("left out the oldest %d turns: the window has %d tokens", left_out, max_window_size)
            break
        turns = turn + turns
    return opening + turns + message_ids(tokenizer, USER, query) + opening_ids(tokenizer, ASSISTANT)


def stop_words(tokenizer: QwenVLTokenizer, chat_format: str) -> list[list[int]]:
    """The token sequences that end an answer in ``chat_format`` (``chatml`` or ``raw``)."""
    if chat_format == CHATML:
        return [[tokenizer.im_end_id], [tokenizer.im_start_id]]
    if chat_format == RAW:
        return [tokenizer.encode("Human:"), [tokenizer.eod_id]]
    raise InputError(f"unknown chat format {chat_format!r}; known: {CHATML}, {RAW}")


def from_list_format(elements: Sequence[Mapping[str, Any]]) -> str:
    """Prompt text of elements ``{"image": path}``, ``{"text": …}``, ``{"ref": …, "box": [[x1, y1, x2, y2], …]}``.

    Box coordinates are thousandths of the image's width and height. ``ref`` may be absent.
    """
    text, images = "", 0
    for element in elements:
        if "image" in element:
            images += 1
            text += image_tag(element["image"], images)
        elif "text" in element:
            text += element["text"]
        elif "box" in element:
            text += f"<ref>{element['ref']}</ref>" if "ref" in element else ""
            text += "".join("<box>({:d},{:d}),({:d},{:d})</box>".format(*box) for box in element["box"])
        else:
            raise InputError(f"list format: an element needs one of image, text, box, but has {sorted(element)}")
    return text


def to_list_format(text: str) -> list[dict[str, str]]:
    """The way back: text cut into ``{"text": …}``, ``{"image": …}``, ``{"ref": …}``, ``{"box": …}``, ``{"quad": …}``.

    A tag that is never closed is text (an answer may be cut off), but for ``<img>``, which raises InputError.
    """
    pieces = split_tags(unicodedata.normalize("NFC", text))
    if any(tag == "text" and IMAGE_START in content for tag, content in pieces):
        raise InputError(f"Unclosed image token: {IMAGE_START} without {IMAGE_END}")
    return [{"image" if tag == "img" else tag: content} for tag, content in pieces]


def latest_picture(query: str, history: History | None = None) -> str | None:
    """The path of the last image shown in the questions: the picture that boxes in an answer refer to."""
    for question in (query, *(question for question, _ in reversed(history or ()))):
        if paths := [element["image"] for element in to_list_format(question) if "image" in element]:
            return paths[-1]
    return None
