"""The boxes, points and quads of an answer, drawn on an image."""

from __future__ import annotations

import colorsys
import os

from PIL import Image, ImageDraw, ImageFont

from ms_impl.data.boxes import BoxStyle, Point, Rectangle, Size, around, in_pixels
from ms_impl.data.fonts import font_for, load_font
from ms_impl.data.tags import shorten

_GOLDEN_RATIO = 0.618033988749895  # hues this far apart stay distinct, however many there are
_QUAD_REACH = 4  # sides of the image beyond it that a quad is drawn to: what is further costs time and is not seen
_LONGEST_LABEL = 80  # characters
_READABLE = 448  # pixels along the shorter side of an enlarged image

Colour = tuple[int, int, int]


def draw_boxes(
    image: Image.Image, text: str, style: BoxStyle, font: str | os.PathLike | None = None, size: Size | None = None,
    letters: int | None = None,
) -> Image.Image | None:  # fmt: skip
    """A copy of the image (RGB) with the answer's regions, and each ref beside its region.

    Each ref has a colour, and so have the regions after it that have none. ``font`` is a font file for the labels;
    without it, or where it lacks a label's characters, one that has them is looked for, see ``font_for``. ``size`` is
    that of the image which the model was shown, where ``image`` is an enlarged copy of it. ``letters`` are the pixels
    of labels; None: by the image's size. None if the answer has no region. Raises InputError for a font that cannot be
    used.
    """
    regions = style.regions(text)
    letters = letters or max(10, min(image.size) // 25)
    if font is not None:
        load_font(font, letters)
    if not regions:
        return None
    drawn = image.convert("RGB")
    canvas = ImageDraw.Draw(drawn)
    sides = style.sides(*(size or image.size))
    refs: list[str | None] = []
    for region in regions:
        if region.ref is not None or not refs:
            ref = region.ref
            refs += [] if ref in refs else [ref]
        colour = _colour(refs.index(ref))
        corners = in_pixels(region, sides, drawn.size)
        _draw(canvas, corners, drawn.size, colour)
        if label := _label(region.ref):
            _write(canvas, label, around(corners), drawn.size, colour, font_for(label, letters, font))
    return drawn


def enlarged(image: Image.Image) -> Image.Image:
    """A small image made larger, so that labels on it can be read."""
    factor = max(1, _READABLE // min(image.size))
    longest = max(image.size)
    factor = max(1, min(factor, 4 * _READABLE // longest))
    return image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)


def _colour(number: int) -> Colour:
    red, green, blue = colorsys.hsv_to_rgb(number * _GOLDEN_RATIO % 1.0, 0.9, 0.9)
    return round(red * 255), round(green * 255), round(blue * 255)


def _draw(canvas: ImageDraw.ImageDraw, corners: list[Point], size: Size, colour: Colour) -> None:
    line = max(2, min(size) // 150)
    if len(corners) > 2:
        reach = _QUAD_REACH * size[0], _QUAD_REACH * size[1]
        canvas.polygon([_near(point, size, reach) for point in corners], outline=colour, width=line)
        return
    left, top, right, bottom = around(corners)
    reach = line + 2, line + 2  # an edge there is not seen, like one further away
    if len(corners) == 1:
        x, y = _near((left, top), size, reach)
        canvas.ellipse((x - 2 * line, y - 2 * line, x + 2 * line, y + 2 * line), fill=colour)
    else:
        ends = [_near(corner, size, reach) for corner in ((left, top), (right, bottom))]
        canvas.rectangle(ends, outline=colour, width=line)


def _near(point: Point, size: Size, reach: tuple[int, int]) -> Point:
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
    size: Size,
    colour: Colour,
    letters: ImageFont.FreeTypeFont,
) -> None:
    """Write the ref above its box, or below where there is no room above, and inside the image if it fits."""
    _, _, width, height = canvas.textbbox((0, 0), text, font=letters)
    left, top, _, bottom = box
    above = top - height if top >= height else bottom
    place = max(0.0, min(left, size[0] - width)), max(0.0, min(above, size[1] - height))
    canvas.rectangle((*place, place[0] + width, place[1] + height), fill=colour)
    canvas.text(place, text, fill="white", font=letters)
