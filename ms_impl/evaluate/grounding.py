"""Boxes in answers against right ones, by the rules of Qwen-VL's own evaluation (``eval_mm/evaluate_grounding.py``)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ms_impl.data.boxes import EVALUATION_SCALE, Rectangle
from ms_impl.data.tags import shorten
from ms_impl.errors import InputError

HIT = 0.5  # IoU from which on a box counts as found

_NO_BOX = (0.0, 0.0, 0.0, 0.0)
_UNSCALED = (EVALUATION_SCALE, EVALUATION_SCALE)  # the image's size where only coordinates of 0–999 are known
# The original's \((.*?)\),\((.*?)\), whose first match in a line begins at the line's first bracket. Anchored there,
# an answer of a hundred thousand brackets takes no longer than another of that length.
_CORNERS = re.compile(r"^[^(\n]*+\((.*?)\),\((.*?)\)", re.MULTILINE)


@dataclass(frozen=True)
class Target:
    """A right box: (left, top, right, bottom) in pixels of an image of ``size`` (width, height)."""

    box: Rectangle
    size: tuple[int, int]

    @property
    def is_outside(self) -> bool:
        """Whether no part of it lies in the image, where answers are."""
        left, top, right, bottom = self.box
        return left >= self.size[0] or top >= self.size[1] or right <= 0 or bottom <= 0


def is_empty(box: Sequence[float]) -> bool:
    """Whether a box has no area (in float32, as scores are computed), or is reversed, or has a coordinate of NaN."""
    with np.errstate(all="ignore"):
        left, top, right, bottom = edges = np.array(box, np.float32)
        return not (left < right and top < bottom and 0 < _area(edges) < np.inf)


def first_box(text: str) -> Rectangle | None:
    """The first ``(x1,y1),(x2,y2)`` of a text, in 0–999 of the image's sides, whether there are box tags or not.

    (In the original's prompt the opening tag is part of the question.) As in the original a number is what ``float``
    reads: ``-100``, ``3.5``, ``1e3``, ``nan``. None if there is no such pattern, or if what it holds is not four
    numbers; later ones are not looked at.
    """
    if (corners := _CORNERS.search(text)) is None:
        return None
    try:
        (left, top), (right, bottom) = ([float(n) for n in half.split(",")] for half in corners.groups())
    except ValueError:
        return None
    return left, top, right, bottom


def text_target(text: str) -> Target | None:
    """The first box of a reference as the right one; None if there is none.

    Raises InputError for a box that no answer can hit: reversed, empty, or outside the image.
    """
    if (box := first_box(text)) is None:
        return None
    target = Target(tuple(_in_pixels(box, _UNSCALED).tolist()), _UNSCALED)
    if is_empty(box) or target.is_outside:
        raise InputError(f"the right box is reversed, empty or outside the image: {shorten(text)!r}")
    return target


def box_iou(answer: str, target: Target) -> float:
    """Intersection over union of the first box of an answer and the right one; 0 if there is none.

    In float32 and in the original's order of operations, so that a box at the very edge of ``HIT`` falls as it does
    there. What is not a number there (a coordinate that is infinite or ``nan``) is 0 here; neither is a hit.
    """
    with np.errstate(all="ignore"):
        first, second = _in_pixels(first_box(answer) or _NO_BOX, target.size), np.array(target.box, np.float32)
        sides = np.maximum(np.minimum(first[2:], second[2:]) - np.maximum(first[:2], second[:2]), np.float32(0))
        shared = sides[0] * sides[1]
        iou = float(shared / (_area(first) + _area(second) - shared))
    return iou if iou > 0 else 0.0


def _in_pixels(box: Rectangle, size: tuple[int, int]) -> np.ndarray:
    """0–999 → pixels, where coordinate v stands at v / 999 of a side: float32 [4]."""
    return np.array(box, np.float32) / np.float32(EVALUATION_SCALE) * np.array([*size, *size], np.float32)


def _area(box: np.ndarray) -> np.float32:
    return (box[2] - box[0]) * (box[3] - box[1])
