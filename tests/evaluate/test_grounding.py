"""Boxes: found in answers, and compared as the official evaluation does in pixels.

The rule itself is written again, with torch, in ``tests/fuzz/test_grounding_rule.py``.
"""

import time

import numpy as np
import pytest

from ms_impl.evaluate import grounding
from ms_impl.evaluate.grounding import Target
from ms_impl.qwenvl.boxes import BOXES

UNSCALED = (999, 999)


def box_iou(answer, target, style=BOXES):
    return grounding.box_iou(answer, target, style)


@pytest.mark.parametrize(
    ("text", "box"),
    [
        ("<ref>the dog</ref><box>(10,20),(300,400)</box>", (10, 20, 300, 400)),
        ("(10,20),(300,400)</box>", (10, 20, 300, 400)),
        ("<box>(1,2),(3,4)</box><box>(5,6),(7,8)</box>", (1, 2, 3, 4)),
        ("<box>( 1 , 2 ),( 3.5,4)</box>", (1, 2, 3.5, 4)),
        ("(-100,200),(300,400)", (-100, 200, 300, 400)),
        ("(100.,200.),(300.,400.)", (100, 200, 300, 400)),
        ("(1e2,1_0),(+3,.5)", (100, 10, 3, 0.5)),
        ("(１２,2),(3,४)", (12, 2, 3, 4)),  # float reads all decimal digits
        ("(1\n,2),(3,4) and\n(5,6),(7,8)", (5, 6, 7, 8)),  # the pattern does not go over lines
        ("<box>(1,2) , (3,4)</box>", None),
        ("(100,200), (300,400)", None),
        ("((1,2),(3,4))", None),
        ("(none),(here); (1,2),(3,4)", None),  # only the first is looked at
        ("(1,2,3),(4,5)", None),
        ("(1,),(2,3)", None),
        ("(,),(,)", None),
        ("(1,0x2),(3,4)", None),
        ("<box>(1,2)</box>", None),
        ("there is none", None),
        ("", None),
    ],
)
def test_the_first_box_of_an_answer(text, box):
    assert BOXES.first_rectangle(text) == box


def test_iou_is_that_of_pixels_with_coordinates_at_v_over_999():
    width, height, target = 1000, 500, (100, 50, 300, 250)
    left, top, right, bottom = 100 / 999 * width, 100 / 999 * height, 300 / 999 * width, 500 / 999 * height
    shared = (300 - left) * (250 - top)
    union = 200 * 200 + (right - left) * (bottom - top) - shared
    found = box_iou("<box>(100,100),(300,500)</box>", Target(target, (width, height)))
    assert found == pytest.approx(shared / union, rel=1e-6)
    assert found < 0.9995  # v / 1000, the rule for drawing, would make it 1


def test_iou_against_counted_pixels():
    random = np.random.default_rng(0)
    for _ in range(20):
        pair = [tuple(int(v) for v in np.sort(random.integers(0, 30, 4).reshape(2, 2), axis=0).ravel()) for _ in "ab"]
        masks = np.zeros((2, 30, 30), bool)
        for mask, (left, top, right, bottom) in zip(masks, pair):
            mask[top:bottom, left:right] = True
        union = masks.any(0).sum()
        answer = "({},{}),({},{})".format(*pair[0])
        assert box_iou(answer, Target(pair[1], UNSCALED)) == pytest.approx(masks.all(0).sum() / union if union else 0)


def test_half_a_box_no_box_and_a_box_turned_round():
    target = Target((0.0, 0.0, 400.0, 400.0), UNSCALED)
    assert box_iou("<box>(0,0),(200,400)</box>", target) == 0.5
    for answer in ("left", "<box>(400,400),(0,0)</box>", "(nan,0),(400,400)", "(-inf,0),(inf,400)", "(0,0),(1e999,1)"):
        assert box_iou(answer, target) == 0.0


@pytest.mark.parametrize("text", ["(" * 200_000, "(1," * 60_000, "),(" * 60_000, "(" + "9" * 200_000 + ",1),(1,1)"])
def test_a_long_answer_takes_no_time(text):
    began = time.monotonic()
    assert box_iou(text, Target((0.0, 0.0, 400.0, 400.0), UNSCALED)) == 0.0
    assert time.monotonic() - began < 1
