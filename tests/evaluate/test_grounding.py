"""Boxes: found in answers, and compared as the official evaluation does in pixels."""

import pytest

from ms_impl.evaluate.grounding import box_iou, first_box, from_pixels


@pytest.mark.parametrize(
    ("text", "box"),
    [
        ("<ref>the dog</ref><box>(10,20),(300,400)</box>", (10, 20, 300, 400)),
        ("(10,20),(300,400)</box>", (10, 20, 300, 400)),
        ("<box>(1,2),(3,4)</box><box>(5,6),(7,8)</box>", (1, 2, 3, 4)),
        ("<box>( 1 , 2 ) , (3.5,4)</box>", (1, 2, 3.5, 4)),
        ("<box>(1,2)</box>", None),
        ("there is none", None),
    ],
)
def test_the_first_box_of_an_answer(text, box):
    assert first_box(text) == box


def test_iou_is_that_of_pixels_with_coordinates_at_v_over_999():
    width, height, target = 1000, 500, (100, 50, 300, 250)
    left, top, right, bottom = 100 / 999 * width, 100 / 999 * height, 300 / 999 * width, 500 / 999 * height
    shared = (300 - left) * (250 - top)
    union = 200 * 200 + (right - left) * (bottom - top) - shared
    found = box_iou("<box>(100,100),(300,500)</box>", from_pixels(target, width, height))
    assert found == pytest.approx(shared / union, rel=1e-12)
    assert found < 0.9995  # v / 1000, the rule for drawing, would make it 1


def test_half_a_box_no_box_and_a_box_turned_round():
    target = (0.0, 0.0, 400.0, 400.0)
    assert box_iou("<box>(0,0),(200,400)</box>", target) == 0.5
    assert box_iou("left", target) == 0.0
    assert box_iou("<box>(400,400),(0,0)</box>", target) == 0.0
