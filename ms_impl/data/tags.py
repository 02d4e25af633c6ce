"""The inline mark-up of prompts and answers: ``<img>``, ``<ref>``, ``<box>``, ``<quad>``."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping

from ms_impl.errors import InputError

IMAGE_START, IMAGE_END = "<img>", "</img>"

_TAGS = {tag: (f"<{tag}>", f"</{tag}>") for tag in ("img", "ref", "box", "quad")}
_SHOWN = 60  # characters of an excerpt in an error


def split_tags(text: str) -> list[tuple[str, str]]:
    """Cut text into (tag, content) in order; what lies between tags, or in a tag never closed, is tagged ``text``."""
    return split_marks(text, _TAGS)


def split_marks(text: str, marks: Mapping[str, tuple[str, str]]) -> list[tuple[str, str]]:
    """The same for any marks: their opening and closing by name."""
    names = {opening: name for name, (opening, _) in marks.items()}
    openings = re.compile("|".join(map(re.escape, names)))
    pieces, end = [], 0
    position, unclosed = 0, set()
    while opening := openings.search(text, position):
        name, position = names[opening[0]], opening.end()
        closing = marks[name][1]
        close = -1 if name in unclosed else text.find(closing, position)
        if close < 0:
            unclosed.add(name)  # none of its kind is closed from here on: the text is searched for it once
            continue
        pieces += [("text", text[end : opening.start()]), (name, text[position:close])]
        end = position = close + len(closing)
    pieces.append(("text", text[end:]))
    return [(tag, content) for tag, content in pieces if content or tag != "text"]


def split_images(text: str) -> list[tuple[str, str]]:
    """Cut text into ("text", …) and ("img", path) in order, as the tokenizer does: all of it in NFC, paths too.

    Raises InputError for an image tag that is never closed, is nested, or holds no path.
    """
    text = unicodedata.normalize("NFC", text)
    pieces, end = [], 0
    while (start := text.find(IMAGE_START, end)) >= 0:
        close = text.find(IMAGE_END, start)
        if close < 0:
            raise InputError(f"Unclosed image token: {IMAGE_START} without {IMAGE_END} in {shorten(text[start:])!r}")
        pieces += [("text", text[end:start]), ("img", _path(text[start + len(IMAGE_START) : close]))]
        end = close + len(IMAGE_END)
    return [(tag, content) for tag, content in [*pieces, ("text", text[end:])] if content]


def inline_paths(text: str) -> list[str]:
    """The paths of a text's images, in order, as the model is shown them. Raises InputError as ``split_images``."""
    return [path for tag, path in split_images(text) if tag == "img"]


def image_tag(path: str, number: int) -> str:
    """An image as prompts show it: ``Picture N: <img>path</img>`` and a newline."""
    return f"Picture {number}: {IMAGE_START}{path}{IMAGE_END}\n"


def shorten(text: str, length: int = _SHOWN) -> str:
    """The beginning of a text, for an error."""
    return text if len(text) <= length else text[:length] + "…"


def whole_text(text: str) -> str:
    """The text itself, unless half of a character stands in it, which no file and no tokenizer takes."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        half = ascii(text[error.start])
        raise InputError(f"half of a surrogate pair, {half}, in {ascii(shorten(text))}; its text is damaged") from error
    return text


def _path(path: str) -> str:
    if IMAGE_START in path:
        raise InputError(f"nested image token: {IMAGE_START} inside {IMAGE_START} in {shorten(path)!r}")
    if not path:
        raise InputError(f"no image path between {IMAGE_START} and {IMAGE_END}")
    return path
