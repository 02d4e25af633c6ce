"""Queries with images and videos as text that a history keeps: ``<img>path</img>``, ``<video>path</video>``.

Of a video given as frames JSON stands between the marks: ``<video>{"path": ["0.png", "1.png"]}</video>``.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from ms_impl.data.media_sources import IMAGE, PLACEHOLDERS, VIDEO, split_placeholders
from ms_impl.data.tags import split_marks, whole_text
from ms_impl.errors import InputError, listed, quote

MARKS = {IMAGE: ("<img>", "</img>"), VIDEO: ("<video>", "</video>")}
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


def marked(visual: Shown) -> str:
    """A visual as ``shown_in`` reads it."""
    opening, closing = MARKS[visual.kind]
    told = visual.source
    return (
        f"{opening}{told if isinstance(told, str) else json.dumps({'path': list(told)}, ensure_ascii=False)}{closing}"
    )


def with_marks(text: str, shown: Iterator[Shown], kinds: Collection[str]) -> str:
    """A record's text with the next visual in place of each placeholder of ``kinds``."""
    pieces = split_placeholders(text, kinds)
    return "".join(piece if kind == "text" else marked(next(shown)) for kind, piece in pieces)


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
        if not value:
            raise InputError(f"{source}: the video has no frames")
        return marked(Shown(kind, tuple(_name(frame, source, keep) for frame in value))) + "\n"
    return marked(Shown(kind, _name(value, source, keep))) + "\n"


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
        told = json.loads(content) if content.startswith("{") else None
    except ValueError:
        return content
    frames = told.get("path") if isinstance(told, dict) else None
    if isinstance(frames, list) and frames and all(isinstance(frame, str) for frame in frames):
        return tuple(frames)
    return content
