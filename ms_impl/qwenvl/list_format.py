"""Queries in the list format ↔ prompt text (``from_list_format``, ``to_list_format`` of ``tokenization_qwen.py``)."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Callable, Mapping, Sequence, Set
from typing import Any

from PIL import Image

from ms_impl.data.tags import IMAGE_END, IMAGE_START, image_tag, split_tags
from ms_impl.errors import InputError, listed, quote

_KINDS = ("image", "text", "box")
_BESIDE = {"box": {"ref"}}  # keys that may stand beside a kind; ``type`` may beside each

Keep = Callable[[Image.Image], str]


def from_list_format(elements: Sequence[Mapping[str, Any]], keep: Keep | None = None) -> str:
    """Prompt text of elements ``{"image": path}``, ``{"text": …}``, ``{"ref": …, "box": [[x1, y1, x2, y2], …]}``.

    Box coordinates are thousandths of the image's width and height, numbers of any type; like the original's ``%d``,
    the text has their whole part. ``ref`` may be absent. ``keep`` gives an image in memory the name by which the
    prompt mentions it. Raises InputError, naming the element, for anything else.
    """
    expected = "list format: expected a list of elements such as {'image': path} and {'text': question}"
    text, images = "", 0
    for number, element in enumerate(_items(elements, expected), start=1):
        source = f"list format: element {number}"
        kind = _kind(element, source)
        if kind == "image":
            images += 1
            text += image_tag(_image_name(element["image"], keep, source), images)
        elif kind == "text":
            text += _text(element["text"], f"{source}: text")
        else:
            text += f"<ref>{_text(element['ref'], f'{source}: ref')}</ref>" if "ref" in element else ""
            text += "".join(map(_box, _boxes(element["box"], source)))
    return text


def to_list_format(text: str) -> list[dict[str, str]]:
    """The way back: text cut into ``{"text": …}``, ``{"image": …}``, ``{"ref": …}``, ``{"box": …}``, ``{"quad": …}``.

    A tag that is never closed is text (an answer may be cut off), but for ``<img>``, which raises InputError.
    """
    pieces = split_tags(unicodedata.normalize("NFC", text))
    if any(tag == "text" and IMAGE_START in content for tag, content in pieces):
        raise InputError(f"Unclosed image token: {IMAGE_START} without {IMAGE_END}")
    return [{"image" if tag == "img" else tag: content} for tag, content in pieces]


def _kind(element: Any, source: str) -> str:
    if not isinstance(element, Mapping):
        raise InputError(f"{source}: expected a table such as {{'image': path}} or {{'text': …}}, not {quote(element)}")
    kinds = [kind for kind in _KINDS if kind in element]
    if len(kinds) != 1:
        raise InputError(f"{source} needs one of {', '.join(_KINDS)}, but has {quote(sorted(map(str, element)))}")
    (kind,) = kinds
    if extra := set(element) - {kind, "type"} - _BESIDE.get(kind, set()):
        raise InputError(f"{source}: {listed(sorted(map(str, extra)))} beside {kind} has no meaning; remove it")
    return kind


def _text(value: Any, source: str) -> str:
    if not isinstance(value, str):
        raise InputError(f"{source} must be text, not {quote(value)}")
    return value


def _image_name(value: Any, keep: Keep | None, source: str) -> str:
    if isinstance(value, Image.Image):
        if keep is None:
            raise InputError(f"{source}: an image in memory has no path; save it, or give the list to model.chat")
        return keep(value)
    name = os.fspath(value) if isinstance(value, os.PathLike) else value
    if not isinstance(name, str) or not name:
        raise InputError(f"{source}: image must be a path or a PIL image, not {quote(value)}")
    if IMAGE_START in name or IMAGE_END in name:
        raise InputError(f"{source}: image {quote(name)}: a path cannot hold {IMAGE_START} or {IMAGE_END}")
    return name


def _boxes(value: Any, source: str) -> list[list[str]]:
    """The boxes of an element, each as four whole numbers in text."""
    expected = f"{source}: box must be a list of boxes [x1, y1, x2, y2], each of four numbers"
    boxes = [_items(box, expected) for box in _items(value, expected)]
    for box in boxes:
        if len(box) != 4:
            raise InputError(f"{expected}; one has {len(box)}: {quote(box)}")
    return [[_whole(number, expected) for number in box] for box in boxes]


def _items(value: Any, expected: str) -> list[Any]:
    """The items of a list, a tuple, an array."""
    try:
        if not isinstance(value, (str, bytes, Mapping, Set)) and len(value) >= 0:
            return list(value)
    except TypeError:
        pass  # a number; an array without dimensions
    raise InputError(f"{expected}, not {quote(value)}")


def _whole(value: Any, expected: str) -> str:
    if isinstance(value, (str, bytes)):
        raise InputError(f"{expected}, not {quote(value)}")
    try:
        return f"{int(value):d}"
    except Exception as error:  # infinite, not a number, thousands of digits, or whatever else int() meets in a type
        raise InputError(f"{expected}, not {quote(value)}") from error


def _box(box: list[str]) -> str:
    left, top, right, bottom = box
    return f"<box>({left},{top}),({right},{bottom})</box>"
