"""Qwen2.5-Omni's boxes, in both of ms-swift's formats (``QWENVL_BBOX_FORMAT``)."""

from __future__ import annotations

from ms_impl.data.boxes import BoxStyle, ListBoxStyle, Marks, Seen
from ms_impl.errors import InputError, quote

LEGACY, NEW = "legacy", "new"


def box_style(bbox_format: str = LEGACY, seen: Seen | None = None, norm1000: bool = False) -> BoxStyle:
    """How boxes are written.

    ``legacy``: ``<|object_ref_start|>dog<|object_ref_end|><|box_start|>(x1,y1),(x2,y2)<|box_end|>``; ``new``:
    ``[x1, y1, x2, y2]``. Coordinates are whole pixels of the image as the model sees it, at the size that ``seen``
    gives; with ``norm1000`` thousandths of its sides. Raises InputError for another format.
    """
    side = 1000 if norm1000 else None
    if bbox_format == NEW:
        return ListBoxStyle(side=side, seen=seen)
    if bbox_format != LEGACY:
        raise InputError(f"bbox_format must be {LEGACY} or {NEW}, not {quote(bbox_format)}")
    shape = Marks("<|box_start|>", "<|box_end|>", (1, 2, 4))
    return BoxStyle((shape,), ("<|object_ref_start|>", "<|object_ref_end|>"), side, seen, lists=True)
