"""Boxes as each family writes them: parsed, written, drawn; one form of its own a family, one parser for all."""

import pickle

import numpy as np
import pytest
from PIL import Image

from ms_impl.data.box_drawing import draw_boxes
from ms_impl.data.boxes import Box
from ms_impl.errors import InputError
from ms_impl.ovis2_5.boxes import BOXES as OVIS
from ms_impl.qwen2_5_omni.boxes import box_style
from ms_impl.qwenvl.boxes import BOXES as QWENVL


def halved(width, height):
    return width // 2, height // 2


LEGACY, NEW = box_style("legacy", halved), box_style("new", halved)
THOUSANDTHS = box_style("legacy", norm1000=True)
STYLES = {"qwenvl": QWENVL, "legacy": LEGACY, "new": NEW, "thousandths": THOUSANDTHS, "ovis": OVIS}


@pytest.mark.parametrize(
    ("style", "text", "boxes"),
    [
        (
            "legacy",
            "<|object_ref_start|>dog<|object_ref_end|><|box_start|>(1,2),(3,4)<|box_end|>",
            [((1, 2, 3, 4), "dog")],
        ),
        ("legacy", "<|box_start|>(1,2)<|box_end|>", [((1, 2), None)]),
        ("legacy", "<|box_start|>(1,2),(3,4),(5,6),(7,8)<|box_end|>", [((1, 2, 3, 4, 5, 6, 7, 8), None)]),
        ("legacy", "<|box_start|>(1,2),(3<|box_end|> <box>(1,2),(3,4)</box>", []),
        ("new", "It is at [1, 2, 3, 4].", [((1, 2, 3, 4), None)]),
        (
            "new",
            '```json\n[{"bbox_2d": [1, 2, 3, 4], "label": "a dog"}, {"point_2d": [5,6], "label": "tail"}]```',
            [((1, 2, 3, 4), "a dog"), ((5, 6), "tail")],
        ),
        ("new", "see [1], [a, b] and [1, 2, 3]", []),
        ("ovis", "<ref>dog</ref><box>(0.1,.25),(0.5,1e-1)</box>", [((0.1, 0.25, 0.5, 0.1), "dog")]),
        ("ovis", "<point>(0.5, 0.75)</point>", [((0.5, 0.75), None)]),
        (
            "ovis",
            "<ref>dogs</ref>: [<box>(0.1,0.2),(0.3,0.4)</box>,<box>(0.5,0.6),(0.7,0.8)</box>] <point>(0,0)</point>",
            [((0.1, 0.2, 0.3, 0.4), None), ((0.5, 0.6, 0.7, 0.8), None), ((0, 0), None)],
        ),
        (
            "ovis",
            "<ref>dogs</ref>[<box>(0.1,0.2),(0.3,0.4)</box>, <box>(0.5,0.6),(0.7,0.8)</box>] <point>(0,0)</point>",
            [((0.1, 0.2, 0.3, 0.4), "dogs"), ((0.5, 0.6, 0.7, 0.8), "dogs"), ((0, 0), None)],
        ),
        (
            "ovis",
            "<box>(0.1,0.2)</box><point>(0.1,nan)</point><box>(0.1,0.2),(0.3,x)</box><point>(1e,0)</point>",
            [],
        ),
        ("qwenvl", "<ref>a</ref>, <box>(1,2),(3,4)</box><box>(0.1,0.2),(0.3,0.4)</box>", [((1, 2, 3, 4), None)]),
    ],
)
def test_what_an_answer_shows(style, text, boxes):
    assert [(sum(region.corners, ()), region.ref) for region in STYLES[style].regions(text)] == boxes


@pytest.mark.parametrize(
    ("style", "expected"),
    [
        ("qwenvl", "<ref>dog</ref><box>(100,250),(999,500)</box>"),
        ("legacy", "<|object_ref_start|>dog<|object_ref_end|><|box_start|>(40,50),(400,100)<|box_end|>"),
        ("new", "dog[40, 50, 400, 100]"),
        ("thousandths", "<|object_ref_start|>dog<|object_ref_end|><|box_start|>(100,250),(1000,500)<|box_end|>"),
        ("ovis", "<ref>dog</ref><box>(0.100,0.250),(0.999,0.500)</box>"),
    ],
)
def test_a_box_is_written_in_the_unit_of_the_style_and_read_again(style, expected):
    style, size = STYLES[style], (800, 400)
    corners = style.convert([(80, 100), (800, 200)], size, size)
    text = style.write_ref("dog") + style.write(corners)
    assert text == expected
    (box,) = style.boxes(text)
    assert style.rectangle(box, *size) == pytest.approx((80, 100, 800, 200), abs=0.81)
    assert style.convert([(100, 250), (1000, 500)], (1000, 1000), size) == corners
    assert style.convert([(0.1, 0.25), (1, 0.5)], (1, 1), size) == corners


def test_pixels_without_a_size_of_their_own_are_those_of_the_file():
    style = box_style("new")
    assert (
        style.convert([(80, 99.6)], (800, 400), (800, 400)) == [(80, 100)] and style.write([(80, 100)]) == "[80, 100]"
    )


def test_what_cannot_be_written_is_refused():
    with pytest.raises(InputError, match="a region of 1 corners cannot be written"):
        QWENVL.write([(1, 2)])
    for corner in ((801, 1), (-1, 1), (1, float("nan"))):
        with pytest.raises(InputError, match="lies outside its image of 800×400"):
            LEGACY.convert([(1, 1), corner], (800, 400), (800, 400))
    with pytest.raises(InputError, match="bbox_format must be legacy or new, not 'old'"):
        box_style("old")


@pytest.mark.parametrize("style", STYLES)
def test_a_style_goes_to_other_processes(style):
    assert pickle.loads(pickle.dumps(STYLES[style])) == STYLES[style]


def test_the_same_place_is_drawn_alike_in_every_style():
    image = Image.new("RGB", (200, 100))
    expected = draw_boxes(image, "<box>(100,200),(900,800)</box>", QWENVL)
    for style, text in {
        "legacy": "<|box_start|>(10,10),(90,40)<|box_end|>", "new": "[10, 10, 90, 40]",
        "thousandths": "<|box_start|>(100,200),(900,800)<|box_end|>", "ovis": "<box>(.1,.2),(.9,.8)</box>",
    }.items():  # fmt: skip
        assert draw_boxes(image, text, STYLES[style]).tobytes() == expected.tobytes()


def test_a_box_of_a_small_image_is_drawn_on_its_enlarged_copy():
    image = Image.new("RGB", (400, 200))
    drawn = np.asarray(draw_boxes(image, "[10, 10, 90, 40]", NEW, size=(200, 100))).any(-1)
    rows, columns = np.nonzero(drawn)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (40, 160, 40, 360)


def test_a_point_is_a_spot():
    drawn = np.asarray(draw_boxes(Image.new("RGB", (100, 100)), "<point>(.5,.25)</point>", OVIS)).any(-1)
    assert drawn[25, 50] and not drawn[25, 60:].any() and not drawn[40:].any()


def test_text_is_needed():
    for style in STYLES.values():
        with pytest.raises(InputError, match="answer's text"):
            style.regions(None)
    assert Box(((1, 2),)) == Box(((1, 2),), None)
