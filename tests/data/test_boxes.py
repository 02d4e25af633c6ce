"""Boxes are read from answers as the original reads them, drawn, and compared."""

import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ms_impl.data import box_drawing
from ms_impl.data.boxes import FURTHEST, Box
from ms_impl.errors import InputError
from ms_impl.qwenvl.boxes import BOXES

parse_boxes, parse_regions = BOXES.boxes, BOXES.regions


def draw_boxes(image, text, font=None):
    return box_drawing.draw_boxes(image, text, BOXES, font)


def test_parse_equals_the_original(tokenizer_cases):
    for case in tokenizer_cases["fetch_boxes"]:
        expected = [(tuple(box["box"]), box.get("ref")) for box in case["out"]]
        assert [(sum(box.corners, ()), box.ref) for box in parse_boxes(case["in"])] == expected


def test_a_ref_belongs_to_the_box_directly_after_it():
    boxes = parse_boxes("<ref>a</ref> at <box>(1,2),(3,4)</box><ref>b</ref><ref>c</ref><box>(5,6),(7,8)</box>")
    assert [box.ref for box in boxes] == [None, "c"]


def test_a_quad_is_a_region_and_no_box():
    """The original leaves it out; regions are our own."""
    text = "<ref>sign</ref><quad>(1,2),(30,4),(35,60),(7,58)</quad>"
    assert parse_boxes(text) == []
    (quad,) = parse_regions(text)
    assert quad == Box(((1, 2), (30, 4), (35, 60), (7, 58)), "sign")
    assert BOXES.rectangle(quad, 1000, 1000) == (1, 2, 35, 60)


@pytest.mark.parametrize(
    "content",
    [
        "(1,2),(3,4)", "(-10,10),(500,500)", "(10,10,500,500)", "10,10,500,500", " ( 1 , 2 ) , ( 3 , 4 ) ", "((1,2)),3,4",
        "+1,-2,1_000,03", "1),(2),(3),(4", "\n1,2,\t3,4", "１,２,３,４", "(1.5,2),(3,4)", "1,2,3", "1,2,3,4,", "1,,3,4",
        "1 2,3,4,5", "_1,2,3,4", "1__0,2,3,4", "--1,2,3,4", "[1,2,3,4]", "1,2,3,4,5", "a,2,3,4", "²,1,1,1", "0x1,2,3,4",
    ],
)  # fmt: skip
def test_boxes_are_read_as_the_original_reads_them(content):
    """By Python's own ``int``, as there; where the original raises, the box is left out."""
    try:
        numbers = tuple(map(int, content.replace("(", "").replace(")", "").split(",")))
        expected = [numbers] if len(numbers) == 4 else []
    except ValueError:
        expected = []
    assert [sum(box.corners, ()) for box in parse_boxes(f"<box>{content}</box>")] == expected


DIGITS = [10, 11, 19, 400, 4299, 4301, 100_000]


@pytest.mark.parametrize("digits", DIGITS)
@pytest.mark.parametrize("sign", ["", "-"])
def test_a_far_coordinate_counts_as_the_furthest(digits, sign):
    (box,) = parse_boxes(f"<box>({sign}{'9' * digits},10),({'0' * digits}7,500)</box>")
    assert box.corners == ((-FURTHEST if sign else FURTHEST, 10), (7, 500))
    assert BOXES.rectangle(Box(((10**digits if digits < 4300 else 7, 1), (2, 3))), 100, 100)[3] == 0.3


@pytest.mark.parametrize("digits", DIGITS)
def test_a_far_box_costs_no_time_and_its_near_edges_are_seen(digits):
    image = Image.new("RGB", (2000, 1000))
    text = f"<box>(500,500),({'9' * digits},{'9' * digits})</box>"
    draw_boxes(image, text)
    begun = time.perf_counter()
    drawn = draw_boxes(image, text)
    assert time.perf_counter() - begun < 0.05  # 10 ms on an idle machine, most of it the copy
    lit = np.asarray(drawn).any(-1)
    assert lit[500:, 1000].all() and lit[500, 1000:].all()
    assert not lit[:490].any() and not lit[520:, 1020:].any()


def test_a_far_quad_costs_no_time():
    image, far = Image.new("RGB", (2000, 1000)), "9" * 5000
    begun = time.perf_counter()
    draw_boxes(image, f"<quad>(1,2),({far},4),(-{far},{far}),(7,8)</quad>")
    assert time.perf_counter() - begun < 0.2


def test_edges_outside_are_not_seen():
    lit = np.asarray(draw_boxes(Image.new("RGB", (200, 100)), "<box>(-100,-900),(1500,500)</box>")).any(-1)
    assert set(np.nonzero(lit)[0]) == {49, 50} and lit[50].all()


@pytest.mark.parametrize("count", [3000])
def test_tags_never_closed_cost_no_time(count):
    begun = time.perf_counter()
    for tag in ("<ref>", "<box>", "<img>", "<box></ref>"):
        assert parse_boxes(tag * 10 * count) == []
    assert time.perf_counter() - begun < 1


@pytest.mark.parametrize("answer", [None, 5, b"<box>(1,2),(3,4)</box>", [("q", "a")]])
def test_what_is_no_text_is_refused(answer):
    with pytest.raises(InputError, match="answer's text"):
        draw_boxes(Image.new("RGB", (9, 9)), answer)


@pytest.mark.parametrize("content", ["", "(1,2)", "(1,2),(3", "(1,2),(3,4),(5,6)", "dog"])
def test_what_is_no_box_is_left_out_with_a_warning(content, caplog):
    assert parse_boxes(f"<box>{content}</box><box>(1,2),(3,4)</box>") == [Box(((1, 2), (3, 4)))]
    assert "left out" in caplog.text


def test_scales():
    box = Box(((500, 250), (999, 1000)))
    assert BOXES.scaled(box, 200, 400) == [(100, 100), (199.8, 400)]
    assert BOXES.judging_sides(200, 400) == (999, 999)


def test_corners_in_any_order():
    assert BOXES.rectangle(Box(((900, 800), (100, 200))), 100, 100) == (10, 20, 90, 80)


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


def test_boxes_of_one_ref_share_its_colour():
    boxes = "".join(f"{{}}<box>({left},300),({left + 80},900)</box>" for left in (0, 200, 400, 600, 800))
    refs = ["", "<ref>a</ref>", "", "<ref>b</ref>", ""]
    drawn = draw_boxes(Image.new("RGB", (1000, 1000)), boxes.format(*refs))
    first, a, also_a, b, also_b = (drawn.getpixel((left, 600)) for left in (0, 200, 400, 600, 800))
    assert a == also_a and b == also_b
    assert len({first, a, b}) == 3


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


def label_of(ref: str, font=None) -> np.ndarray:
    """The pixels of a label, white on its colour."""
    drawn = np.asarray(draw_boxes(Image.new("RGB", (400, 400)), f"<ref>{ref}</ref><box>(0,500),(999,900)</box>", font))
    return (drawn[:200] > 128).all(-1)


def test_labels_in_chinese_japanese_and_korean_can_be_read(caplog):
    """Different characters look different, and none of them like the box of a missing one."""
    characters = "狗红格子衬衫犬ねカ개"
    looks = {label_of(character).tobytes() for character in characters}
    assert len(looks) == len(characters) and not caplog.records
    missing = label_of("\N{CUNEIFORM SIGN A}").tobytes()
    assert "no font for '𒀀'" in caplog.text and "fonts-noto-cjk" in caplog.text
    assert missing not in looks


@pytest.mark.parametrize("ref", ["狗" * 5000, "a\nb\tc", "\ud800", "\x00\x1b[0m", "‮abc", " "])
def test_any_ref_can_be_written(ref):
    begun = time.perf_counter()
    label_of(ref)
    assert time.perf_counter() - begun < 2


@pytest.mark.parametrize("box", ["(0,0),(999,999)", "(0,0),(999,5000)", "(-500,-500),(1500,1500)", "(0,-90),(9,-80)"])
def test_a_label_is_inside_the_image(box):
    size = Image.new("RGB", (300, 300))
    bare, labelled = (np.asarray(draw_boxes(size, f"{ref}<box>{box}</box>")) for ref in ("", "<ref>dog</ref>"))
    assert (labelled > 128).all(-1).sum() > 20 and not (bare > 128).all(-1).any()


def test_a_font_that_is_given(tmp_path, caplog):
    import matplotlib

    dejavu = Path(matplotlib.get_data_path(), "fonts/ttf/DejaVuSans.ttf")
    assert (label_of("dog", dejavu) != label_of("dog")).any()
    assert not caplog.records
    assert (label_of("狗", dejavu) == label_of("狗")).all()
    assert f"font {dejavu} lacks '狗'; another is looked for" in caplog.text
    (tmp_path / "bad.ttf").write_bytes(dejavu.read_bytes()[:500])
    (tmp_path / "empty.ttf").touch()
    for name, message in (("bad.ttf", "cannot be used"), ("empty.ttf", "cannot be used"), ("no.ttf", "not found")):
        with pytest.raises(InputError, match=f"font .*{name}' {message}"):
            label_of("dog", tmp_path / name)
