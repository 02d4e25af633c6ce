"""The inline mark-up of prompts and answers: ``<img>``, ``<ref>``, ``<box>``, ``<quad>``."""

from __future__ import annotations

import re
import unicodedata

from ms_impl.errors import InputError

IMAGE_START, IMAGE_END = "<img>", "</img>"

_TAGGED = re.compile(r"<(img|ref|box|quad)>(.*?)</\1>", re.DOTALL)
_IMAGE = re.compile(f"{IMAGE_START}(.*?){IMAGE_END}", re.DOTALL)
_SHOWN = 60  # characters of an excerpt in an error


def split_tags(text: str) -> list[tuple[str, str]]:
    """Cut text into (tag, content) in order; what lies between tags, or in a tag never closed, is tagged ``text``."""
    pieces, end = [], 0
    for match in _TAGGED.finditer(text):
        pieces += [("text", text[end : match.start()]), (match[1], match[2])]
        end = match.end()
    pieces.append(("text", text[end:]))
    return [(tag, content) for tag, content in pieces if content or tag != "text"]


def split_images(text: str) -> list[tuple[str, str]]:
    """Cut text into ("text", …) and ("img", path) in order, as the tokenizer does: all of it in NFC, paths too.

    Raises InputError for an image tag that is never closed, is nested, or holds no path.
    """
    text = unicodedata.normalize("NFC", text)
    pieces, end = [], 0
    for match in _IMAGE.finditer(text):
        pieces += [("text", text[end : match.start()]), ("img", _path(match[1]))]
        end = match.end()
    if IMAGE_START in text[end:]:
        raise InputError(f"Unclosed image token: {IMAGE_START} without {IMAGE_END} in {shorten(text[end:])!r}")
    return [(tag, content) for tag, content in [*pieces, ("text", text[end:])] if content]


def image_paths(text: str) -> list[str]:
    """The paths of a text's images, in order, as the model is shown them. Raises InputError as ``split_images``."""
    return [path for tag, path in split_images(text) if tag == "img"]


def image_tag(path: str, number: int) -> str:
    """An image as prompts show it: ``Picture N: <img>path</img>`` and a newline."""
    return f"Picture {number}: {IMAGE_START}{path}{IMAGE_END}\n"


def shorten(text: str, length: int = _SHOWN) -> str:
    """The beginning of a text, for an error."""
    return text if len(text) <= length else text[:length] + "…"


def _path(path: str) -> str:
    if IMAGE_START in path:
        raise InputError(f"nested image token: {IMAGE_START} inside {IMAGE_START} in {shorten(path)!r}")
    if not path:
        raise InputError(f"no image path between {IMAGE_START} and {IMAGE_END}")
    return path
