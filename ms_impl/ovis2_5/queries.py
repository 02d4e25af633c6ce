"""Queries with images and videos as text that a history keeps: ``<img>path</img>``, ``<vid>path</vid>``.

A video given as frames is a JSON list of their paths between the marks.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from ms_impl.data.media_sources import IMAGE, PLACEHOLDERS, VIDEO, Medium, split_placeholders
from ms_impl.data.tags import split_marks, whole_text
from ms_impl.errors import InputError, listed, quote

MARKS = {IMAGE: ("<img>", "</img>"), VIDEO: ("<vid>", "</vid>")}
_KINDS = ("image", "video", "text")

Keep = Callable[[Image.Image], str]  # an image in memory → the name by which text mentions it


@dataclass(frozen=True)
class Shown:
    """A visual that a text mentions: its kind, and a path or the paths of its frames."""

    kind: str
    source: str | tuple[str, ...]


def query_text(query: str | Sequence[Mapping[str, Any]], keep: Keep) -> str:
    """The text of a query, or of elements ``{"image": …}``, ``{"video": …}``, ``{"text": …}`` in order.

    After each visual comes a newline, as in the original. Raises InputError naming the element.
    """
    if isinstance(query, str):
        return whole_text(query)
    if not isinstance(query, Sequence) or isinstance(query, bytes):
        raise InputError(
            f"a query is text or a list such as [{{'image': path}}, {{'text': question}}], not {quote(query)}"
        )
    return "".join(_element(element, f"query: element {number}", keep) for number, element in enumerate(query, start=1))


def marked(text: str, visuals: Iterator[Medium]) -> str:
    """A record's text with the next of the visuals in place of each placeholder, as ``shown_in`` reads it."""
    pieces = []
    for kind, piece in split_placeholders(text, MARKS):
        if kind in MARKS:
            source = next(visuals).source
            name = source if isinstance(source, str) else json.dumps(source, ensure_ascii=False)
            piece = f"{MARKS[kind][0]}{name}{MARKS[kind][1]}"
        pieces.append(piece)
    return "".join(pieces)


def shown_in(text: str) -> tuple[str, list[Shown]]:
    """A query's text with a placeholder for each visual, and the visuals; placeholders that it had are left out."""
    pieces, shown = [], []
    for kind, content in split_marks(text, MARKS):
        if kind == "text":
            pieces.append(without_placeholders(content))
        else:
            pieces.append(PLACEHOLDERS[kind])
            shown.append(Shown(kind, _frames(content) if kind == VIDEO else content))
    return "".join(pieces), shown


def without_placeholders(text: str) -> str:
    """A text that shows nothing: the original's chat template deletes placeholders from it."""
    return text.replace(PLACEHOLDERS[IMAGE], "").replace(PLACEHOLDERS[VIDEO], "")


def _element(element: Any, source: str, keep: Keep) -> str:
    if not isinstance(element, Mapping):
        raise InputError(f"{source}: expected a table such as {{'image': path}} or {{'text': …}}, not {quote(element)}")
    kinds = [kind for kind in _KINDS if kind in element]
    if len(kinds) != 1 or set(element) - {kinds[0], "type"}:
        raise InputError(f"{source}: expected one of {', '.join(_KINDS)}, found {listed(map(str, element))}")
    value = element[kinds[0]]
    if kinds[0] == "text":
        if not isinstance(value, str):
            raise InputError(f"{source}: text must be text, not {quote(value)}")
        return whole_text(value)
    kind = IMAGE if kinds[0] == "image" else VIDEO
    if kind == VIDEO and isinstance(value, Sequence) and not isinstance(value, str | bytes):
        name = json.dumps([_name(frame, source, keep) for frame in value], ensure_ascii=False)
        if not value:
            raise InputError(f"{source}: the video has no frames")
    else:
        name = _name(value, source, keep)
    opening, closing = MARKS[kind]
    return f"{opening}{name}{closing}\n"


def _name(value: Any, source: str, keep: Keep) -> str:
    if isinstance(value, Image.Image):
        return keep(value)
    name = os.fspath(value) if isinstance(value, os.PathLike) else value
    if not isinstance(name, str) or not name or "</" in name:
        raise InputError(f"{source}: expected a path or a PIL image, not {quote(value)}")
    return whole_text(name)


def _frames(content: str) -> str | tuple[str, ...]:
    """The path of a video, or the paths of its frames."""
    try:
        frames = json.loads(content) if content.startswith("[") else None
    except ValueError:
        return content
    if isinstance(frames, list) and frames and all(isinstance(frame, str) for frame in frames):
        return tuple(frames)
    return content
