"""The objects of a record: what its ``<ref-object>`` and ``<bbox>`` stand for (ms-swift's grounding)."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ms_impl.data.boxes import BoxStyle, Point, Size
from ms_impl.data.tags import whole_text
from ms_impl.errors import InputError, listed, quote

REF, BBOX = "<ref-object>", "<bbox>"
REAL, NORM_1000, NORM_1 = "real", "norm1000", "norm1"

_KEYS = ("ref", "bbox", "bbox_type", "image_id", "width", "height")
_UNITS = (REAL, NORM_1000, NORM_1)
_LENGTHS = (2, 4, 8)  # numbers of a point, of a box, of the four corners of a region
_PLACEHOLDER = re.compile(f"{REF}|{BBOX}")
_FARTHEST = 1e9  # NaN is not below it either


@dataclass(frozen=True)
class Objects:
    """What the placeholders of a conversation stand for, in their order.

    Args:
        refs: the texts of ``<ref-object>``.
        boxes: the numbers of ``<bbox>``: x, y of a point, or of two or four corners.
        unit: ``real``: pixels of the image file; ``norm1000``, ``norm1``: parts of its sides.
        images: which of the conversation's images each box lies in, counted from 0.
    """

    refs: tuple[str, ...]
    boxes: tuple[tuple[float, ...], ...]
    unit: str = REAL
    images: tuple[int, ...] = ()


def parse_objects(given: Any, texts: Sequence[str], images: int) -> Objects | None:
    """``objects`` of a record with so many images; None where there are none.

    Raises InputError for anything of another form, and unless there are as many as placeholders in ``texts``.
    """
    if not given:
        return None
    if not isinstance(given, dict):
        raise InputError(f"'objects' must be a table with ref and bbox, not {quote(given)}")
    if unknown := [key for key in given if key not in _KEYS and given[key]]:
        raise InputError(f"'objects' has unknown keys: {listed(unknown)}; known: {', '.join(_KEYS)}")
    refs = tuple(_ref(ref) for ref in _list(given, "ref"))
    boxes = tuple(_box(box) for box in _list(given, "bbox"))
    unit = given.get("bbox_type") or REAL
    if unit not in _UNITS:
        raise InputError(f"'bbox_type' must be {', '.join(_UNITS)}, not {quote(unit)}")
    for placeholder, found in ((REF, refs), (BBOX, boxes)):
        count = sum(text.count(placeholder) for text in texts)
        if count != len(found):
            raise InputError(
                f"{count} {placeholder} in its turns, but 'objects' has {len(found)}; there must be as many"
            )
    return Objects(refs, boxes, unit, _image_ids(given, len(boxes), images, unit))


def fill_objects(
    texts: Sequence[str], objects: Objects, style: BoxStyle, size_of_image: Callable[[int], Size]
) -> list[str]:
    """The texts of a conversation with its placeholders filled in a model's style.

    ``size_of_image`` gives width and height, in pixels, of one of the conversation's images, counted from 0; it is
    asked where pixels are to be told. Raises InputError for a box outside its image, and for one that the style cannot
    write.
    """
    refs, boxes = iter(objects.refs), iter(zip(objects.boxes, objects.images))

    def fill(match: re.Match[str]) -> str:
        if match[0] == REF:
            return style.write_ref(next(refs))
        return _filled(*next(boxes), objects.unit, style, size_of_image)

    return [_PLACEHOLDER.sub(fill, text) for text in texts]


def _filled(
    numbers: tuple[float, ...], image: int, unit: str, style: BoxStyle, size_of_image: Callable[[int], Size]
) -> str:
    """One box in a model's style."""
    size = size_of_image(image) if unit == REAL or style.side is None else (1, 1)
    sides: dict[str, Point] = {REAL: size, NORM_1000: (1000, 1000), NORM_1: (1, 1)}
    corners = list(zip(numbers[::2], numbers[1::2]))
    return style.write(style.convert(corners, sides[unit], size))


def _list(given: Mapping[str, Any], key: str) -> list[Any]:
    value = given.get(key)
    if value is not None and not isinstance(value, list):
        raise InputError(f"'{key}' of 'objects' must be a list, not {quote(value)}")
    return value or []


def _ref(ref: Any) -> str:
    if not isinstance(ref, str):
        raise InputError(f"'ref' of 'objects' must be a list of texts; one is {quote(ref)}")
    return whole_text(ref)


def _box(box: Any) -> tuple[float, ...]:
    numbers = isinstance(box, list) and all(isinstance(x, int | float) and not isinstance(x, bool) for x in box)
    if not numbers or len(box) not in _LENGTHS or not all(abs(x) < _FARTHEST for x in box):
        raise InputError(
            f"'bbox' of 'objects' must be a list of points [x, y] and boxes [x1, y1, x2, y2]; one is {quote(box)}"
        )
    return tuple(box)


def _image_ids(given: Mapping[str, Any], boxes: int, images: int, unit: str) -> tuple[int, ...]:
    ids = _list(given, "image_id")
    if any(type(number) is not int for number in ids) or len(ids) > boxes:
        raise InputError(f"'image_id' of 'objects' must be a list of whole numbers, one a box, not {quote(ids)}")
    ids = [*ids, *[0] * (boxes - len(ids))]
    if wrong := [number for number in ids if not 0 <= number < max(images, unit != REAL)]:
        raise InputError(f"a box lies in image {wrong[0]}, but the record has {images}; images are counted from 0")
    return tuple(ids)
