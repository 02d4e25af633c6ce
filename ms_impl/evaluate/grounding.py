"""Boxes in answers against right ones, by the rules of Qwen-VL's own evaluation (``eval_mm/evaluate_grounding.py``)."""

from __future__ import annotations

import re
from collections.abc import Sequence

from ms_impl.data.boxes import EVALUATION_SCALE, Rectangle, iou

HIT = 0.5  # IoU from which on a box counts as found

_NUMBER = r"\s*(\d+(?:\.\d+)?)\s*"
_CORNERS = re.compile(rf"\({_NUMBER},{_NUMBER}\)\s*,\s*\({_NUMBER},{_NUMBER}\)")


def first_box(text: str) -> Rectangle | None:
    """The first ``(x1,y1),(x2,y2)`` of a text, in 0–999 of the picture's sides, whether there are box tags or not.

    (In the original's prompt the opening tag is part of the question.)
    """
    corners = _CORNERS.search(text)
    return tuple(float(number) for number in corners.groups()) if corners else None


def from_pixels(box: Sequence[float], width: int, height: int) -> Rectangle:
    """(left, top, right, bottom) in pixels of a picture → 0–999, where coordinate v stands at v / 999 of a side."""
    left, top, right, bottom = box
    across, down = EVALUATION_SCALE / width, EVALUATION_SCALE / height
    return left * across, top * down, right * across, bottom * down


def box_iou(answer: str, target: Rectangle) -> float:
    """Intersection over union of the first box of an answer and the right one (0–999); 0 if there is none.

    IoU does not change when sides are scaled, so that it is the one the original computes in pixels.
    """
    box = first_box(answer)
    return iou(box, target) if box else 0.0
