"""Qwen-VL's boxes: ``<ref>dog</ref><box>(x1,y1),(x2,y2)</box>`` in 0–999, and ``<quad>`` with four corners."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ms_impl.data.boxes import BoxStyle, Marks, Point, Rectangle

DRAWING_SIDE = 1000  # the original draws coordinate v at v / 1000 of the side …
JUDGING_SIDE = 999  # … and its grounding evaluation puts it at v / 999

# The original's \((.*?)\),\((.*?)\), whose first match in a line begins at the line's first bracket. Anchored there,
# an answer of a hundred thousand brackets takes no longer than another of that length.
_CORNERS = re.compile(r"^[^(\n]*+\((.*?)\),\((.*?)\)", re.MULTILINE)


@dataclass(frozen=True)
class QwenVLBoxStyle(BoxStyle):
    """Boxes as the original's ``_fetch_all_box_with_ref`` reads them, and quads, which it leaves out.

    Where the original raises, the box is left out, with a warning.
    """

    def judging_sides(self, width: int, height: int) -> Point:
        return JUDGING_SIDE, JUDGING_SIDE

    def first_rectangle(self, text: str) -> Rectangle | None:
        """The first ``(x1,y1),(x2,y2)`` of a text, whether there are box tags or not.

        (In the prompt of the original's ``eval_mm/evaluate_grounding.py`` the opening tag is part of the question.) As
        there a number is what ``float`` reads: ``-100``, ``3.5``, ``1e3``, ``nan``. None if there is no such pattern,
        or if what it holds is not four numbers; later ones are not looked at.
        """
        if (corners := _CORNERS.search(text)) is None:
            return None
        try:
            (left, top), (right, bottom) = ([float(n) for n in half.split(",")] for half in corners.groups())
        except ValueError:
            return None
        return left, top, right, bottom


BOXES = QwenVLBoxStyle(
    shapes=(Marks("<box>", "</box>", (2,)), Marks("<quad>", "</quad>", (4,))),
    ref=("<ref>", "</ref>"),
    side=DRAWING_SIDE,
    largest=999,
    skipped=(("<img>", "</img>"),),
)
