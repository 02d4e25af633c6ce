"""The list format, both ways, as the original reads and writes it."""

import decimal
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ms_impl.errors import InputError
from ms_impl.qwenvl.list_format import from_list_format, to_list_format


def test_from_list_format(tokenizer_cases):
    for case in tokenizer_cases["from_list_format"]:
        assert from_list_format(case["in"]) == case["out"]


def test_from_list_format_refuses_unknown_elements():
    with pytest.raises(InputError, match=r"\['audio'\]"):
        from_list_format([{"audio": "a.wav"}])


def test_to_list_format(tokenizer_cases):
    for case in tokenizer_cases["to_list_format"]:
        assert to_list_format(case["in"]) == case["out"]


def test_to_list_format_of_an_answer_cut_off():
    assert to_list_format("<ref>a</ref><box>(1,2),(3") == [{"ref": "a"}, {"text": "<box>(1,2),(3"}]


def test_to_list_format_of_an_unclosed_image():
    with pytest.raises(InputError, match="^Unclosed image token"):
        to_list_format("see <img>a.png")


NUMBERS = [
    [1.5, 2.0, 3.0, 4.9], np.array([1.5, 2.0, 3.0, 4.9]), np.array([1, 2, 3, 4], np.uint8), (True, 2, np.int64(3), 4),
    [np.float32(1.5), np.float16(2), decimal.Decimal("3.7"), 4], [-1.5, -0.5, 0.5, 1e5], [1, 2, 3, 10**30],
]  # fmt: skip


@pytest.mark.parametrize("box", NUMBERS)
def test_numbers_are_written_as_percent_d_writes_them(box):
    expected = "<box>(%d,%d),(%d,%d)</box>" % tuple(box)  # noqa: UP031 - the original's own words
    assert from_list_format([{"box": [box]}]) == expected
    assert from_list_format([{"ref": "a", "box": np.array([box])}]) == f"<ref>a</ref>{expected}"


@pytest.mark.parametrize(
    "box",
    [
        [1, 2, 3, 4], [[1, 2, 3]], [[1, 2, 3, 4, 5]], [["1", "2", "3", "4"]], "1234", ["1234"], None, 7, [[]], [7],
        [[1, 2, 3, None]], [[1, 2, 3, float("nan")]], [[1, 2, 3, float("inf")]], [[1, 2, 3, 10**5000]], {1: 2},
        [{1: 0, 2: 0, 3: 0, 4: 0}], [[1, 2, 3, [4]]], [[1, 2, 3, 4j]], np.array(5), np.zeros((1, 2, 2)), iter([]),
    ],
)  # fmt: skip
def test_a_box_of_another_form_is_refused(box):
    with pytest.raises(
        InputError, match=r"^list format: element 1: box must be a list of boxes \[x1, y1, x2, y2\]"
    ) as error:
        from_list_format([{"box": box}])
    assert len(str(error.value)) < 400


@pytest.mark.parametrize(
    "elements, message",
    [
        (None, "expected a list"), ({"text": "a"}, "expected a list"), (iter(()), "expected a list"), (5, "expected a list"),
        (["a"], "element 1: expected a table"), ([{"text": "a"}, None], "element 2: expected a table"),
        ([{}], "element 1 needs one of image, text, box"), ([{"ref": "dog"}], "element 1 needs one of"),
        ([{"image": "a.png", "text": "b"}], "element 1 needs one of"), ([{"text": "a", "ref": "b"}], "ref beside text"),
        ([{"text": None}], "element 1: text must be text, not None"), ([{"text": b"a"}], "text must be text"),
        ([{"ref": 5, "box": []}], "ref must be text"), ([{"image": None}], "image must be a path or a PIL image"),
        ([{"image": np.zeros((2, 2, 3))}], "image must be a path or a PIL image"), ([{"image": ""}], "image must be"),
        ([{"image": "a</img>b"}], "a path cannot hold"), ([{"image": Image.new("RGB", (2, 2))}], "save it, or give"),
        ([{3: "a", "text": "b"}], "3 beside text"),
    ],
)  # fmt: skip
def test_what_is_no_element_is_refused(elements, message):
    with pytest.raises(InputError, match=f"^list format: .*{message}"):
        from_list_format(elements)


def test_paths_types_and_tuples_are_taken():
    elements = ({"type": "image", "image": Path("a/b.png")}, {"type": "text", "text": "?"})
    assert from_list_format(elements) == "Picture 1: <img>a/b.png</img>\n?"
