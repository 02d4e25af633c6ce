"""Boxes in answers, parsed and drawn.

``<ref>dog</ref><box>(x1,y1),(x2,y2)</box>``, and ``<quad>`` with four corners.
"""

from __future__ import annotations

import colorsys
import logging
import re
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from ms_impl.data.tags import split_tags

logger = logging.getLogger(__name__)

DRAWING_SCALE = 1000  # the original draws coordinate v at v / 1000 of the side …
EVALUATION_SCALE = 999  # … and its grounding evaluation puts it at v / 999

_POINT = re.compile(r"\(\s*(\d+)\s*,\s*(\d+)\s*\)")
_CORNERS = {"box": 2, "quad": 4}
_GOLDEN_RATIO = 0.618033988749895  # hues this far apart stay distinct, however many there are

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
        return [(x / scale * width, y / scale * height) for x, y in self.corners]

    def rectangle(self, width: int, height: int, scale: int = DRAWING_SCALE) -> Rectangle:
        """The upright rectangle around the corners, (left, top, right, bottom) in pixels."""
        columns, rows = zip(*self.scaled(width, height, scale))
        return min(columns), min(rows), max(columns), max(rows)


def parse_boxes(text: str) -> list[Box]:
    """The boxes of an answer in order. A ref belongs only to the box directly after it.

    What a model wrote between box tags that is no list of corners is left out, with a warning.
    """
    boxes = []
    before = ("text", "")
    for piece in split_tags(text):
        tag, content = piece
        if tag in _CORNERS:
            corners = tuple((int(x), int(y)) for x, y in _POINT.findall(content))
            if len(corners) == _CORNERS[tag]:
                boxes.append(Box(corners, before[1].strip() if before[0] == "ref" else None))
            else:
                logger.warning("not a %s, left out: %r", tag, content)
        before = piece
    return boxes


def draw_boxes(image: Image.Image, text: str, font: str | Path | None = None) -> Image.Image | None:
    """A copy of the image (RGB) with the answer's boxes, one colour for each ref and the ref beside its box.

    ``font`` is a TrueType file for the labels; Pillow's own has no Chinese. None if the answer has no box.
    """
    boxes = parse_boxes(text)
    if not boxes:
        return None
    picture = image.convert("RGB")
    size = max(10, min(picture.size) // 25)
    letters = ImageFont.truetype(str(font), size) if font else ImageFont.load_default(size)
    refs = list(dict.fromkeys(box.ref for box in boxes))
    for box in boxes:
        _draw(ImageDraw.Draw(picture), box, picture.size, _colour(refs.index(box.ref)), letters)  # type: ignore[arg-type]
    return picture


def _colour(number: int) -> Colour:
    red, green, blue = colorsys.hsv_to_rgb(number * _GOLDEN_RATIO % 1.0, 0.9, 0.9)
    return round(red * 255), round(green * 255), round(blue * 255)


def _draw(
    canvas: ImageDraw.ImageDraw, box: Box, size: tuple[int, int], colour: Colour, letters: ImageFont.ImageFont
) -> None:
    line = max(2, min(size) // 150)
    left, top, right, bottom = box.rectangle(*size)
    if len(box.corners) == _CORNERS["quad"]:
        canvas.polygon(box.scaled(*size), outline=colour, width=line)
    else:
        canvas.rectangle((left, top, right, bottom), outline=colour, width=line)
    if box.ref:
        _label(canvas, box.ref, (left, top, right, bottom), size, colour, letters)


def _label(
    canvas: ImageDraw.ImageDraw,
    text: str,
    box: Rectangle,
    size: tuple[int, int],
    colour: Colour,
    letters: ImageFont.ImageFont,
) -> None:
    """Write the ref above its box, or below where there is no room above, and inside the picture if it fits."""
    _, _, width, height = canvas.textbbox((0, 0), text, font=letters)
    left, top, _, bottom = box
    place = max(0.0, min(left, size[0] - width)), top - height if top >= height else bottom
    canvas.rectangle((*place, place[0] + width, place[1] + height), fill=colour)
    canvas.text(place, text, fill="white", font=letters)
