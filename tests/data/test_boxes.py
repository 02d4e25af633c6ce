"""Boxes are read from answers as the original reads them, drawn, and compared."""

import numpy as np
import pytest
from PIL import Image

from ms_impl.data.boxes import EVALUATION_SCALE, Box, draw_boxes, parse_boxes


def test_parse_equals_the_original(tokenizer_cases):
    for case in tokenizer_cases["fetch_boxes"]:
        expected = [(tuple(box["box"]), box.get("ref")) for box in case["out"]]
        assert [(sum(box.corners, ()), box.ref) for box in parse_boxes(case["in"])] == expected


def test_a_ref_belongs_to_the_box_directly_after_it():
    boxes = parse_boxes("<ref>a</ref> at <box>(1,2),(3,4)</box><ref>b</ref><ref>c</ref><box>(5,6),(7,8)</box>")
    assert [box.ref for box in boxes] == [None, "c"]


def test_quad():
    (quad,) = parse_boxes("<ref>sign</ref><quad>(1,2),(30,4),(35,60),(7,58)</quad>")
    assert quad == Box(((1, 2), (30, 4), (35, 60), (7, 58)), "sign")
    assert quad.rectangle(1000, 1000) == (1, 2, 35, 60)


@pytest.mark.parametrize("content", ["", "(1,2)", "(1,2),(3", "(1,2),(3,4),(5,6)", "dog"])
def test_what_is_no_box_is_left_out_with_a_warning(content, caplog):
    assert parse_boxes(f"<box>{content}</box><box>(1,2),(3,4)</box>") == [Box(((1, 2), (3, 4)))]
    assert "left out" in caplog.text


def test_scales():
    box = Box(((500, 250), (999, 1000)))
    assert box.scaled(200, 400) == [(100, 100), (199.8, 400)]
    assert box.rectangle(999, 999, EVALUATION_SCALE) == pytest.approx((500, 250, 999, 1000))


def test_corners_in_any_order():
    assert Box(((900, 800), (100, 200))).rectangle(100, 100) == (10, 20, 90, 80)


def test_draw():
    image = Image.new("RGB", (200, 100))
    drawn = draw_boxes(image, "<box>(900,900),(100,100)</box>")
    assert drawn.size == image.size and not np.asarray(image).any()
    lit = np.asarray(drawn).any(axis=2)
    rows, columns = np.nonzero(lit)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (10, 90, 20, 180)
    assert not lit[15:85, 25:175].any()


def test_each_ref_has_its_colour_and_label():
    text = "<ref>{}</ref><box>(100,100),(300,900)</box><ref>{}</ref><box>(600,100),(900,900)</box>"
    image = Image.new("RGB", (200, 200))
    corners = [(60, 100), (120, 100)]  # on the right side of the first box, on the left side of the second
    same, different = draw_boxes(image, text.format("a", "a")), draw_boxes(image, text.format("a", "b"))
    assert len({same.getpixel(corner) for corner in corners}) == 1
    assert len({different.getpixel(corner) for corner in corners}) == 2
    assert draw_boxes(image, text.format("a", "bbbb")).tobytes() != different.tobytes()


@pytest.mark.parametrize("box, rows", [("(100,500),(900,900)", slice(0, 100)), ("(100,0),(900,500)", slice(99, 200))])
def test_a_label_stands_beside_its_box(box, rows):
    bare, labelled = (
        np.asarray(draw_boxes(Image.new("RGB", (200, 200)), f"{ref}<box>{box}</box>")) for ref in ("", "<ref>dog</ref>")
    )
    changed = (bare != labelled).any(-1)
    assert changed[rows].any()
    changed[rows] = False
    assert not changed.any(), "the label covers the box"


def test_quads_are_drawn_as_polygons():
    drawn = draw_boxes(Image.new("RGB", (100, 100)), "<quad>(500,0),(999,500),(500,999),(0,500)</quad>")
    assert drawn.getpixel((25, 25)) != (0, 0, 0) and drawn.getpixel((5, 5)) == (0, 0, 0)


def test_nothing_to_draw():
    assert draw_boxes(Image.new("RGB", (9, 9)), "There is no dog.") is None
