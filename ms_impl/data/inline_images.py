"""Images that stand in a record's text as ``<img>path</img>``, for families that take them as media."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace

from ms_impl.data.media_sources import IMAGE, PLACEHOLDERS, Medium, split_placeholders
from ms_impl.data.records import Conversation
from ms_impl.data.tags import IMAGE_END, IMAGE_START, split_marks

_COUNT = re.compile(r"Picture \d+: $")


def as_media(conversation: Conversation) -> Conversation:
    """The conversation with ``<image>`` and a medium for each ``Picture N: <img>path</img>`` of its text.

    The same conversation where there is none. An ``<img>`` that is never closed stays text.
    """
    texts = [conversation.system or "", *(turn.text for turn in conversation.turns)]
    if not any(IMAGE_START in text for text in texts):
        return conversation
    media: list[Medium] = []
    rest = iter(conversation.media)
    system, *texts = [_replaced(text, rest, {medium.kind for medium in conversation.media}, media) for text in texts]
    turns = tuple(replace(turn, text=text) for turn, text in zip(conversation.turns, texts))
    own_system = None if conversation.system is None else system
    return replace(conversation, turns=turns, system=own_system, media=tuple(media))


def _replaced(text: str, rest: Iterator[Medium], kinds: set[str], media: list[Medium]) -> str:
    """The text with placeholders; its media, inline ones and the next of the ``rest``, are added to ``media``."""
    pieces = []
    for tag, content in split_marks(text, {IMAGE: (IMAGE_START, IMAGE_END)}):
        if tag == IMAGE:
            media.append(Medium(IMAGE, content))
            pieces.append(PLACEHOLDERS[IMAGE])
        else:
            media.extend(next(rest) for kind, _ in split_placeholders(content, kinds) if kind != "text")
            pieces.append(content)
    for place in range(1, len(pieces)):
        if pieces[place] == PLACEHOLDERS[IMAGE]:
            pieces[place - 1] = _COUNT.sub("", pieces[place - 1])
    return "".join(pieces)
