"""Boxes in answers against right ones, in pixels, with the arithmetic of the usual evaluations (float32)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ms_impl.data.boxes import BoxStyle, Rectangle, Size
from ms_impl.data.tags import shorten
from ms_impl.errors import InputError

HIT = 0.5  # IoU from which on a box counts as found

_NO_BOX = (0.0, 0.0, 0.0, 0.0)


@dataclass(frozen=True)
class Target:
    """A right box: (left, top, right, bottom) in pixels of an image of ``size`` (width, height).

    Where only a reference's text is known it is in the unit of the style, and ``size`` is what the sides count; None
    where those are pixels of an image that nobody looked at.
    """

    box: Rectangle
    size: Size | None

    @property
    def is_outside(self) -> bool:
        """Whether no part of it lies in the image, where answers are."""
        left, top, right, bottom = self.box
        beyond = self.size is not None and (left >= self.size[0] or top >= self.size[1])
        return beyond or right <= 0 or bottom <= 0


def is_empty(box: Sequence[float]) -> bool:
    """Whether a box has no area (in float32, as scores are computed), or is reversed, or has a coordinate of NaN."""
    with np.errstate(all="ignore"):
        left, top, right, bottom = edges = np.array(box, np.float32)
        return not (left < right and top < bottom and 0 < _area(edges) < np.inf)


def text_target(text: str, style: BoxStyle) -> Target | None:
    """The first box of a reference as the right one; None if there is none.

    Raises InputError for a box that no answer can hit: reversed, empty, or outside the image.
    """
    if (box := style.first_rectangle(text)) is None:
        return None
    size = None
    if style.side is not None:
        across, down = style.judging_sides(1, 1)
        size = int(across), int(down)
    target = Target(tuple(_in_pixels(box, style, size).tolist()), size)
    if is_empty(box) or target.is_outside:
        raise InputError(f"the right box is reversed, empty or outside the image: {shorten(text)!r}")
    return target


def box_iou(answer: str, target: Target, style: BoxStyle) -> float:
    """Intersection over union of the first box of an answer and the right one; 0 if there is none.

    In float32 and in the order of operations of ``eval_mm/evaluate_grounding.py``, so that a box at the very edge of
    ``HIT`` falls as it does there. What is not a number there (a coordinate that is infinite or ``nan``) is 0 here;
    neither is a hit.
    """
    with np.errstate(all="ignore"):
        first = _in_pixels(style.first_rectangle(answer) or _NO_BOX, style, target.size)
        second = np.array(target.box, np.float32)
        edges = np.maximum(np.minimum(first[2:], second[2:]) - np.maximum(first[:2], second[:2]), np.float32(0))
        shared = edges[0] * edges[1]
        iou = float(shared / (_area(first) + _area(second) - shared))
    return iou if iou > 0 else 0.0


def _in_pixels(box: Rectangle, style: BoxStyle, size: Size | None) -> np.ndarray:
    """A box of an answer in the pixels of a target of ``size``: float32 [4]."""
    coordinates = np.array(box, np.float32)
    if size is None:
        return coordinates
    sides = style.judging_sides(*size)
    return coordinates / np.array([*sides, *sides], np.float32) * np.array([*size, *size], np.float32)


def _area(box: np.ndarray) -> np.float32:
    return (box[2] - box[0]) * (box[3] - box[1])
