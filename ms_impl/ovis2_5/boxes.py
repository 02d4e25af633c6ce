"""Ovis2.5's boxes: ``<box>(x1,y1),(x2,y2)</box>`` and ``<point>(x,y)</point>`` in [0, 1), several in ``[ ]``."""

from __future__ import annotations

from ms_impl.data.boxes import BoxStyle, Marks

BOXES = BoxStyle(
    shapes=(Marks("<box>", "</box>", (2,)), Marks("<point>", "</point>", (1,))),
    ref=("<ref>", "</ref>"),
    side=1,
    whole=False,
    largest=0.999,
    lists=True,
)
