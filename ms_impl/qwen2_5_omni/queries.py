"""Queries of a conversation with the model: elements, or text in which media stand as ``<img>path</img>``.

Where a path does not say all, JSON stands in its place: ``<video>{"path": ["0.png", "1.png"], "fps": 2}</video>``.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

from PIL import Image

from ms_impl.data.media_sources import AUDIO, IMAGE, VIDEO, Medium, split_placeholders
from ms_impl.errors import InputError, quote
from ms_impl.qwen2_5_omni.chat_template import Piece, Shown
from ms_impl.qwen2_5_omni.media import TAKES

_TAGS = {IMAGE: "img", VIDEO: "video", AUDIO: "audio"}
_KINDS = {tag: kind for kind, tag in _TAGS.items()}
_MEDIUM = re.compile(r"<(img|video|audio)>(.+?)</\1>", re.DOTALL)


def as_text(query: Any, keep: Callable[[Image.Image], str]) -> str:
    """A query as histories keep it. ``keep`` gives an image in memory its name.

    Raises InputError, naming the element, for what is neither text, nor an image, a video or a sound.
    """
    if isinstance(query, str):
        return query
    if not isinstance(query, Sequence) or isinstance(query, bytes):
        expected = "expected text, or elements such as {'video': path} and {'text': …}"
        raise InputError(f"query: {expected}, not {quote(query)}")
    return "".join(_element(element, f"query: element {number}", keep) for number, element in enumerate(query, start=1))


def split(text: str) -> tuple[list[Piece], list[Medium]]:
    """Texts and media of a query in order, and the media."""
    pieces: list[Piece] = []
    media, end = [], 0
    for match in _MEDIUM.finditer(text):
        kind = _KINDS[match[1]]
        pieces += [text[end : match.start()], Shown(kind)]
        media.append(_read(kind, match[2]))
        end = match.end()
    return [piece for piece in [*pieces, text[end:]] if piece != ""], media


def marked(text: str, media: Iterator[Medium], kinds: Collection[str]) -> str:
    """A record's text with the next of its media in place of each placeholder of ``kinds``, as ``split`` reads it."""
    return "".join(
        piece if kind == "text" else _mark(kind, _told(next(media))) for kind, piece in split_placeholders(text, kinds)
    )


def last_image(texts: Sequence[str]) -> str | None:
    """The path of the last image in some queries."""
    for text in reversed(texts):
        if images := [medium.source for medium in split(text)[1] if medium.kind == IMAGE]:
            return str(images[-1])
    return None


def _element(element: Any, name: str, keep: Callable[[Image.Image], str]) -> str:
    known = ("text", *_TAGS)
    kinds = [kind for kind in known if isinstance(element, Mapping) and kind in element]
    if len(kinds) != 1 or set(element) - {kinds[0], "type", *TAKES.get(kinds[0], ())}:
        raise InputError(
            f"{name} must have one of {', '.join(known)}, and nothing else but its options: {quote(element)}"
        )
    kind, value = kinds[0], element[kinds[0]]
    options = tuple(sorted((key, each) for key, each in element.items() if key not in (kind, "type")))
    if isinstance(value, Image.Image) and kind == IMAGE:
        value = keep(value)
    value = os.fspath(value) if isinstance(value, os.PathLike) else value
    if not isinstance(value, str) or not value:
        expected = "text" if kind == "text" else "the path of a file"
        raise InputError(f"{name}: {kind} must be {expected}, not {quote(value)}")
    return value if kind == "text" else _mark(kind, _told(Medium(kind, value, options)))


def _mark(kind: str, told: str) -> str:
    return f"<{_TAGS[kind]}>{told}</{_TAGS[kind]}>"


def _told(medium: Medium) -> str:
    """A medium as it stands in a mark: its path, or a table in JSON."""
    if isinstance(medium.source, str) and not medium.options and not medium.source.startswith("{"):
        return medium.source
    return json.dumps({"path": medium.source, **dict(medium.options)}, ensure_ascii=False)


def _read(kind: str, told: str) -> Medium:
    """The way back; what is not such a table is a path."""
    try:
        table = json.loads(told) if told.startswith("{") else {}
    except ValueError:
        table = {}
    source = table.pop("path", None)
    if isinstance(source, list) and source and all(isinstance(frame, str) for frame in source):
        source = tuple(source)
    if not isinstance(source, str | tuple):
        return Medium(kind, told)
    return Medium(kind, source, tuple(sorted(table.items())))
