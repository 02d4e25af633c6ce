"""Boxes in answers, parsed and drawn.

``<ref>dog</ref><box>(x1,y1),(x2,y2)</box>``, and ``<quad>`` with four corners.
"""

from __future__ import annotations

import colorsys
import logging
import os
import re
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

from ms_impl.data.fonts import font_for, load_font
from ms_impl.data.tags import shorten, split_tags
from ms_impl.errors import InputError, quote

logger = logging.getLogger(__name__)

DRAWING_SCALE = 1000  # the original draws coordinate v at v / 1000 of the side …
EVALUATION_SCALE = 999  # … and its grounding evaluation puts it at v / 999
FURTHEST = 1_000_000  # coordinates beyond it count as it: a thousand sides away

_NUMBER = re.compile(r"\s*([+-]?)(\d+(?:_\d+)*)\s*")  # what Python's int() reads, as the original does
_MOST_DIGITS = 9
_CORNERS = {"box": 2, "quad": 4}
_GOLDEN_RATIO = 0.618033988749895  # hues this far apart stay distinct, however many there are
_QUAD_REACH = 4  # sides of the image beyond it that a quad is drawn to: what is further costs time and is not seen
_LONGEST_LABEL = 80  # characters

Point = tuple[float, float]
Rectangle = tuple[float, float, float, float]
Colour = tuple[int, int, int]


@dataclass(frozen=True)
class Box:
    """One box of an answer: two opposite corners, or the four corners of a quad, in 0–999 of the image's sides."""

    corners: tuple[tuple[int, int], ...]
    ref: str | None = None

    def scaled(self, width: int, height: int, scale: int = DRAWING_SCALE) -> list[Point]:
        """The corners in pixels of an image of ``width`` × ``height``."""
        return [(_bounded(x) / scale * width, _bounded(y) / scale * height) for x, y in self.corners]

    def rectangle(self, width: int, height: int, scale: int = DRAWING_SCALE) -> Rectangle:
        """The upright rectangle around the corners, (left, top, right, bottom) in pixels."""
        columns, rows = zip(*self.scaled(width, height, scale))
        return min(columns), min(rows), max(columns), max(rows)


def parse_boxes(text: str) -> list[Box]:
    """The ``<box>`` es of an answer in order, as the original's ``_fetch_all_box_with_ref`` reads them.

    Between the tags stand four whole numbers with commas between; parentheses may be anywhere. A ref belongs only to
    the box directly after it. Coordinates beyond ``FURTHEST`` count as that. What a model wrote there that is no box is
    left out, with a warning; the original raises.
    """
    return [box for box in parse_regions(text) if len(box.corners) == _CORNERS["box"]]


def parse_regions(text: str) -> list[Box]:
    """The same with ``<quad>`` s, of eight numbers, which the original leaves out."""
    boxes = []
    before = ("text", "")
    for piece in split_tags(_checked(text)):
        tag, content = piece
        if tag in _CORNERS:
            read = [_coordinate(number) for number in content.replace("(", "").replace(")", "").split(",")]
            numbers = [number for number in read if number is not None]
            if len(numbers) == len(read) == 2 * _CORNERS[tag]:
                corners = tuple(zip(numbers[::2], numbers[1::2]))
                boxes.append(Box(corners, before[1].strip() if before[0] == "ref" else None))
            else:
                logger.warning("not a %s, left out: %r", tag, shorten(content))
        before = piece
    return boxes


def draw_boxes(image: Image.Image, text: str, font: str | os.PathLike | None = None) -> Image.Image | None:
    """A copy of the image (RGB) with the answer's boxes and quads, and each ref beside its box.

    Each ref has a colour, and so have the boxes after it that have none. ``font`` is a font file for the labels;
    without it, or where it lacks a label's characters, one that has them is looked for, see ``font_for``. None if the
    answer has no box. Raises InputError for a font that cannot be used.
    """
    regions = parse_regions(text)
    size = max(10, min(image.size) // 25)
    if font is not None:
        load_font(font, size)
    if not regions:
        return None
    picture = image.convert("RGB")
    canvas = ImageDraw.Draw(picture)
    refs: list[str | None] = []
    for region in regions:
        if region.ref is not None or not refs:
            ref = region.ref
            refs += [] if ref in refs else [ref]
        colour = _colour(refs.index(ref))
        _draw(canvas, region, picture.size, colour)
        if label := _label(region.ref):
            _write(canvas, label, region.rectangle(*picture.size), picture.size, colour, font_for(label, size, font))
    return picture


def _checked(text: str) -> str:
    if not isinstance(text, str):
        raise InputError(f"boxes are read from an answer's text, not from {quote(text)}")
    return text


def _coordinate(text: str) -> int | None:
    """A whole number in any length; None for what is none."""
    match = _NUMBER.fullmatch(text)
    if not match:
        return None
    digits = match[2].replace("_", "").lstrip("0") or "0"
    value = int(digits) if len(digits) <= _MOST_DIGITS else FURTHEST
    return _bounded(-value if match[1] == "-" else value)


def _bounded(value: int) -> int:
    return max(-FURTHEST, min(value, FURTHEST))


def _colour(number: int) -> Colour:
    red, green, blue = colorsys.hsv_to_rgb(number * _GOLDEN_RATIO % 1.0, 0.9, 0.9)
    return round(red * 255), round(green * 255), round(blue * 255)


def _draw(canvas: ImageDraw.ImageDraw, box: Box, size: tuple[int, int], colour: Colour) -> None:
    line = max(2, min(size) // 150)
    if len(box.corners) == _CORNERS["quad"]:
        reach = _QUAD_REACH * size[0], _QUAD_REACH * size[1]
        canvas.polygon([_near(point, size, reach) for point in box.scaled(*size)], outline=colour, width=line)
    else:
        left, top, right, bottom = box.rectangle(*size)
        reach = line + 2, line + 2  # an edge there is not seen, like one further away
        corners = [_near(corner, size, reach) for corner in ((left, top), (right, bottom))]
        canvas.rectangle(corners, outline=colour, width=line)


def _near(point: Point, size: tuple[int, int], reach: tuple[int, int]) -> Point:
    """The point, or one at most ``reach`` pixels outside an image of that size."""
    x, y = (max(-beyond, min(value, side + beyond)) for value, side, beyond in zip(point, size, reach))
    return x, y


def _label(ref: str | None) -> str:
    """A ref as it is written on the image: on one line, without what no font can show."""
    line = " ".join((ref or "").encode("utf-8", errors="replace").decode().split())
    return shorten("".join(filter(str.isprintable, line[: 2 * _LONGEST_LABEL])), _LONGEST_LABEL)


def _write(
    canvas: ImageDraw.ImageDraw,
    text: str,
    box: Rectangle,
    size: tuple[int, int],
    colour: Colour,
    letters: ImageFont.FreeTypeFont,
) -> None:
    """Write the ref above its box, or below where there is no room above, and inside the picture if it fits."""
    _, _, width, height = canvas.textbbox((0, 0), text, font=letters)
    left, top, _, bottom = box
    above = top - height if top >= height else bottom
    place = max(0.0, min(left, size[0] - width)), max(0.0, min(above, size[1] - height))
    canvas.rectangle((*place, place[0] + width, place[1] + height), fill=colour)
    canvas.text(place, text, fill="white", font=letters)
