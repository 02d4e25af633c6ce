"""How a family writes boxes, points and quads in its text: parsed, written, and put into pixels."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from ms_impl.data.tags import shorten, split_marks
from ms_impl.errors import InputError, quote

logger = logging.getLogger(__name__)

FURTHEST = 1_000_000  # coordinates beyond it count as it: far outside any image

_WHOLE = re.compile(r"\s*([+-]?)(\d+(?:_\d+)*)\s*")  # what Python's int() reads
_DECIMAL = re.compile(r"\s*([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d{1,3})?)\s*")
_MOST_DIGITS = 9
_JOINING = re.compile(r"[\s,\[]*")  # what stands between a ref and the boxes of its list
_LIST = re.compile(r"\[([^\[\]]{1,200})\]")
_LABEL = re.compile(r'\s*,\s*"label"\s*:\s*"((?:[^"\\]|\\.)*)"')

Point = tuple[float, float]
Rectangle = tuple[float, float, float, float]  # left, top, right, bottom
Size = tuple[int, int]  # width, height
Seen = Callable[[int, int], Size]  # of an image file → as the model sees it


@dataclass(frozen=True)
class Box:
    """One region of an answer: a point, two opposite corners, or the four corners of a quad, in its style's unit."""

    corners: tuple[Point, ...]
    ref: str | None = None


@dataclass(frozen=True)
class Marks:
    """What stands around the corners of a region, and how many it may have."""

    opening: str
    closing: str
    corners: tuple[int, ...]


@dataclass(frozen=True)
class BoxStyle:
    """How boxes stand in text: ``(x1,y1),(x2,y2)`` between marks, perhaps after a ref between marks.

    Args:
        shapes: the marks of regions.
        ref: opening and closing of what a box is of; None: a ref stands bare.
        side: what a side of the image counts; None: pixels of the image as the model sees it.
        seen: the size at which the model sees an image file; None: as it is.
        whole: coordinates are whole numbers.
        largest: the largest coordinate that is written, such as 999 where a side counts 1000; None: the side itself.
        lists: one ref may stand before several regions in ``[ ]``.
        skipped: further marks, whose content has no regions.
    """

    shapes: tuple[Marks, ...]
    ref: tuple[str, str] | None = None
    side: float | None = 1000
    seen: Seen | None = None
    whole: bool = True
    largest: float | None = None
    lists: bool = False
    skipped: tuple[tuple[str, str], ...] = ()

    decimals = 3  # of coordinates that are not whole

    def sides(self, width: int, height: int) -> Point:
        """What the sides of an image file of ``width`` × ``height`` pixels count."""
        if self.side is not None:
            return self.side, self.side
        return self.seen(width, height) if self.seen else (width, height)

    def judging_sides(self, width: int, height: int) -> Point:
        """The same where an evaluation compares boxes."""
        return self.sides(width, height)

    def scaled(self, box: Box, width: int, height: int) -> list[Point]:
        """The corners in pixels of an image file of ``width`` × ``height``."""
        return in_pixels(box, self.sides(width, height), (width, height))

    def rectangle(self, box: Box, width: int, height: int) -> Rectangle:
        """The upright rectangle around the corners in pixels."""
        return around(self.scaled(box, width, height))

    def boxes(self, text: str) -> list[Box]:
        """The regions of two corners in an answer, in order."""
        return [box for box in self.regions(text) if len(box.corners) == 2]

    def regions(self, text: str) -> list[Box]:
        """All regions of an answer in order.

        Parentheses may be anywhere between the marks. A ref belongs to the region directly after it, and to those of
        the list after it. Coordinates beyond ``FURTHEST`` count as that. What a model wrote there that is no region is
        left out, with a warning. Raises InputError for what is no text.
        """
        found, ref = [], None
        for tag, content in split_marks(checked_text(text), self._marks):
            if tag == "ref":
                ref = content.strip()
            elif tag == "text" and self.lists and _JOINING.fullmatch(content):
                continue
            elif not tag.startswith("shape"):
                ref = None
            else:
                shape = self.shapes[int(tag.removeprefix("shape"))]
                if corners := self._corners(content, shape):
                    found.append(Box(corners, ref))
                else:
                    logger.warning("not %s…%s, left out: %r", shape.opening, shape.closing, shorten(content))
                ref = ref if self.lists else None
        return found

    def first_rectangle(self, text: str) -> Rectangle | None:
        """The first box of an answer as an evaluation reads it, in the style's unit; None if there is none."""
        if boxes := self.boxes(text):
            (left, top), (right, bottom) = boxes[0].corners
            return left, top, right, bottom
        return None

    def write(self, corners: Sequence[Point]) -> str:
        """A region as it stands in text. Raises InputError for a number of corners that the style has no marks for."""
        shape = next((shape for shape in self.shapes if len(corners) in shape.corners), None)
        if shape is None:
            raise InputError(f"a region of {len(corners)} corners cannot be written in the boxes of this model")
        return shape.opening + self._written(corners) + shape.closing

    def write_ref(self, ref: str) -> str:
        """What a box is of, as it stands in text."""
        return ref if self.ref is None else f"{self.ref[0]}{ref}{self.ref[1]}"

    def convert(self, corners: Sequence[Point], sides: Point, size: Size) -> list[Point]:
        """Corners, of which ``sides`` says what the image's sides count, in this style's unit, ready to be written.

        ``size`` is that of the image file; it matters where the unit is pixels. Raises InputError for a corner outside
        the image.
        """
        own = self.sides(*size)
        converted = []
        for corner in corners:
            if not all(0 <= value <= side for value, side in zip(corner, sides)):
                raise InputError(f"the box {quote(list(corners))} lies outside its image of {sides[0]:g}×{sides[1]:g}")
            x, y = (self._rounded(value / side * count) for value, side, count in zip(corner, sides, own))
            converted.append((x, y))
        return converted

    def _rounded(self, value: float) -> float:
        rounded = round(value) if self.whole else round(value, self.decimals)
        return rounded if self.largest is None else min(rounded, self.largest)

    @property
    def _marks(self) -> Mapping[str, tuple[str, str]]:
        marks = {f"shape{number}": (shape.opening, shape.closing) for number, shape in enumerate(self.shapes)}
        marks |= {} if self.ref is None else {"ref": self.ref}
        return marks | {f"skipped{number}": pair for number, pair in enumerate(self.skipped)}

    def _written(self, corners: Sequence[Point]) -> str:
        return ",".join(f"({self._number(x)},{self._number(y)})" for x, y in corners)

    def _number(self, value: float) -> str:
        return f"{value:d}" if isinstance(value, int) else f"{value:.{self.decimals}f}"

    def _corners(self, content: str, shape: Marks) -> tuple[Point, ...] | None:
        """The corners between a shape's marks; None where there are others, or none."""
        read = [self._coordinate(number) for number in content.replace("(", "").replace(")", "").split(",")]
        numbers = [number for number in read if number is not None]
        if len(numbers) < len(read) or len(read) not in [2 * count for count in shape.corners]:
            return None
        return tuple(zip(numbers[::2], numbers[1::2]))

    def _coordinate(self, text: str) -> float | None:
        """A number in any length; None for what is none."""
        if not self.whole:
            return bounded(float(text)) if _DECIMAL.fullmatch(text) else None
        match = _WHOLE.fullmatch(text)
        if not match:
            return None
        digits = match[2].replace("_", "").lstrip("0") or "0"
        value = int(digits) if len(digits) <= _MOST_DIGITS else FURTHEST
        return bounded(-value if match[1] == "-" else value)


@dataclass(frozen=True)
class ListBoxStyle(BoxStyle):
    """Boxes that stand as plain lists, ``[x1, y1, x2, y2]``, in JSON with a ``"label"`` after them or in any text."""

    shapes: tuple[Marks, ...] = (Marks("[", "]", (1, 2, 4)),)

    def regions(self, text: str) -> list[Box]:
        """As of ``BoxStyle``; a list of anything else is text."""
        found = []
        for match in _LIST.finditer(checked_text(text)):
            if corners := self._corners(match[1], self.shapes[0]):
                label = _LABEL.match(text, match.end())
                found.append(Box(corners, label[1] if label else None))
        return found

    def _written(self, corners: Sequence[Point]) -> str:
        return ", ".join(f"{self._number(x)}, {self._number(y)}" for x, y in corners)


def in_pixels(box: Box, sides: Point, size: Size) -> list[Point]:
    """The corners in pixels of an image of ``size``, whose sides count ``sides``."""
    (across, down), (width, height) = sides, size
    return [(bounded(x) / across * width, bounded(y) / down * height) for x, y in box.corners]


def around(corners: Sequence[Point]) -> Rectangle:
    """The upright rectangle around corners."""
    columns, rows = zip(*corners)
    return min(columns), min(rows), max(columns), max(rows)


def checked_text(text: str) -> str:
    """The text. Raises InputError for what is none."""
    if not isinstance(text, str):
        raise InputError(f"boxes are read from an answer's text, not from {quote(text)}")
    return text


def bounded(value: float) -> float:
    """A coordinate, or the furthest one that counts."""
    return max(-FURTHEST, min(value, FURTHEST))
