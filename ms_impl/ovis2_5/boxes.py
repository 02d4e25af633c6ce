"""How Ovis2.5 writes boxes and points: parts of the image's sides, from 0 to below 1, after what they are of."""

from ms_impl.data.boxes import BoxStyle, Marks

BOXES = BoxStyle(
    shapes=(Marks("<box>", "</box>", (2,)), Marks("<point>", "</point>", (1,))), ref=("<ref>", "</ref>"), side=1.0,
    whole=False, largest=0.999, lists=True,
)  # fmt: skip
