"""V15: boxes, points and lists of answers, and what a model writes that is none of them."""

import logging

import pytest

from ms_impl.ovis2_5.boxes import BOXES


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("<ref>a cat</ref><box>(0.1,0.2),(0.3,0.4)</box>.", [("a cat", (0.1, 0.2), (0.3, 0.4))]),
        ("<box>( 0 , .5 ),(0.999,1e-1)</box>", [(None, (0.0, 0.5), (0.999, 0.1))]),
        ("<ref>it</ref><point>(0.25,0.75)</point>", [("it", (0.25, 0.75))]),
        (
            "<ref>cats</ref>[<box>(0.1,0.2),(0.3,0.4)</box>,\n<box>(0.5,0.6),(0.7,0.8)</box>] and <box>(0,0),(1,1)</box>",
            [("cats", (0.1, 0.2), (0.3, 0.4)), ("cats", (0.5, 0.6), (0.7, 0.8)), (None, (0.0, 0.0), (1.0, 1.0))],
        ),
        ("[<point>(0.1,0.2)</point>, <point>(0.3,0.4)</point>]", [(None, (0.1, 0.2)), (None, (0.3, 0.4))]),
        ("<box>(0.1,0.2),(0.3,1e999)</box>", [(None, (0.1, 0.2), (0.3, 1000000))]),
        ("nothing here", []),
    ],
)
def test_v15_regions_of_an_answer(text, wanted):
    assert [(box.ref, *box.corners) for box in BOXES.regions(text)] == wanted


@pytest.mark.parametrize(
    "text",
    [
        "<box>(0.1,0.2)</box>", "<box>(0.1,0.2),(0.3)</box>", "<point>(0.1,0.2),(0.3,0.4)</point>", "<point>(a,b)</point>",
        "<box></box>", "<box>nan,nan,nan,nan</box>", "<box>(0.1,0.2),(0.3,inf)</box>",
    ],
)  # fmt: skip
def test_v15_what_is_no_region_is_left_out_with_a_warning(text, caplog):
    with caplog.at_level(logging.WARNING):
        assert BOXES.regions(f"{text} <box>(0.1,0.2),(0.3,0.4)</box>") == BOXES.regions(
            "<box>(0.1,0.2),(0.3,0.4)</box>"
        )
    assert "left out" in caplog.text


@pytest.mark.parametrize("text", ["<box>(0.1,0.2),(0.3,0.4)", "</box>(0.1,0.2)<box>", "<ref>a cat</ref>", "<box>"])
def test_v15_marks_that_do_not_close_are_text(text):
    assert BOXES.regions(text) == []
