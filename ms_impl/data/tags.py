"""The inline mark-up of prompts and answers: ``<img>``, ``<ref>``, ``<box>``, ``<quad>``."""

from __future__ import annotations

import re

_TAGGED = re.compile(r"<(img|ref|box|quad)>(.*?)</\1>", re.DOTALL)


def split_tags(text: str) -> list[tuple[str, str]]:
    """Cut text into (tag, content) in order; what lies between tags, or in a tag never closed, is tagged ``text``."""
    pieces, end = [], 0
    for match in _TAGGED.finditer(text):
        pieces += [("text", text[end : match.start()]), (match[1], match[2])]
        end = match.end()
    pieces.append(("text", text[end:]))
    return [(tag, content) for tag, content in pieces if content or tag != "text"]
