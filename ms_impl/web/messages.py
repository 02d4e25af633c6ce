"""A session as the messages that gradio's chatbot shows."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from ms_impl.data.boxes import BoxStyle
from ms_impl.serve.choice import overlap
from ms_impl.web.session import Turn
from ms_impl.web.words import word

Message = dict[str, Any]

_CODE = re.compile(r"(```.*?(?:```|\Z)|`[^`\n]+`)", re.DOTALL)
_SPECIAL = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;"})


def messages(turns: Sequence[Turn], style: BoxStyle | None, language: str) -> list[Message]:
    """Questions with their media, thinking that is folded, answers with what is drawn of them."""
    return [message for turn in turns for message in (_question(turn), *_answer(turn, style, language))]


def readable(text: str, style: BoxStyle | None) -> str:
    """An answer in Markdown: its regions are code, what a region is of is bold, and other mark-up is text.

    Of what has only begun to be a mark nothing is shown yet.
    """
    if style is not None:
        text = _marked(text, style)
    pieces = _CODE.split(text)
    return "".join(piece if place % 2 else piece.translate(_SPECIAL) for place, piece in enumerate(pieces))


def _marked(text: str, style: BoxStyle) -> str:
    kinds = [(shape.opening, shape.closing, "`") for shape in style.shapes]
    kinds += [(*style.ref, "**")] if style.ref else []
    kinds = [kind for kind in kinds if all(kind)]
    begun = max((overlap(text, mark) for kind in kinds for mark in kind[:2]), default=0)
    text = text[: len(text) - begun]
    for opening, closing, around in kinds:
        whole = re.compile(rf"{re.escape(opening)}\s*(.+?)\s*(?:{re.escape(closing)}|\Z)", re.DOTALL)
        text = whole.sub(lambda found, around=around: f"{around}{found[1]}{around} ", text.removesuffix(opening))
    return text


def _question(turn: Turn) -> Message:
    files: list[Any] = [{"path": str(each.path), "alt_text": each.path.name} for each in turn.media]
    return {"role": "user", "content": [*files, turn.text.translate(_SPECIAL)]}


def _answer(turn: Turn, style: BoxStyle | None, language: str) -> list[Message]:
    found: list[Message] = []
    if turn.thinking:
        over = bool(turn.answer) or not turn.grows
        metadata = {"title": word(language, "thinking"), "status": "done" if over else "pending"}
        found.append({"role": "assistant", "content": readable(turn.thinking, None), "metadata": metadata})
    if turn.answer:
        found.append({"role": "assistant", "content": readable(turn.answer, style)})
    elif turn.grows and not turn.thinking:
        found.append({"role": "assistant", "content": word(language, "waiting")})
    if turn.drawing:
        what, path = turn.drawing
        found.append({"role": "assistant", "content": {"path": str(path), "alt_text": word(language, what)}})
    if turn.problem:
        found.append({"role": "assistant", "content": f"⚠ {turn.problem.translate(_SPECIAL)}"})
    elif turn.note:
        found.append({"role": "assistant", "content": f"*{word(language, turn.note)}*"})
    return found
