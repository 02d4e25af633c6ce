"""The one reader of JSON refuses, in bounded time and words, what would be misread or fail later."""

import json
import os
import sys

import pytest

from ms_impl.errors import InputError, listed, quote
from ms_impl.io.json_files import MAX_DEPTH, check_file, parse_json, read_json


@pytest.mark.parametrize("content", [
    {}, {"a": [1, 2.5, None, True, "名前"]}, {"😀": "\n"}, {"n": 10**31, "x": 1e308},
])  # fmt: skip
@pytest.mark.parametrize("ascii_only", [True, False])
def test_what_json_writes_is_read(tmp_path, content, ascii_only):
    path = tmp_path / "x.json"
    path.write_text(json.dumps(content, ensure_ascii=ascii_only), encoding="utf-8")
    assert read_json(path) == content


def test_a_byte_order_mark_is_passed_over(tmp_path):
    path = tmp_path / "x.json"
    path.write_bytes(b'\xef\xbb\xbf{"a": 1}')
    assert read_json(path) == {"a": 1}


def nested(depth: int) -> str:
    return '{"a":' + "[" * (depth - 1) + "]" * (depth - 1) + "}"


def test_the_deepest_nesting_is_read_and_brackets_in_texts_do_not_count():
    parse_json(nested(MAX_DEPTH), "x")
    text = {"a": "[" * 1000, 'b\\"[[': ["{" * 1000, '"[[[\\']}
    assert parse_json(json.dumps(text), "x") == text


@pytest.mark.parametrize("depth", [MAX_DEPTH + 1, 2000, 1_000_000])
def test_deeper_nesting_is_refused_whatever_python_would_take(depth):
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(100_000)
    try:
        with pytest.raises(InputError, match="x: nested deeper than 64 levels"):
            parse_json(nested(depth), "x")
        with pytest.raises(InputError, match="x: nested deeper than 64 levels"):
            parse_json('{"a":' * depth, "x")
    finally:
        sys.setrecursionlimit(limit)


@pytest.mark.parametrize("text, message", [
    ('{"a": ' + "9" * 5000 + "}", "holds a number of 5,000 digits"),
    ('{"a": -' + "9" * 33 + "}", "holds a number of 34 digits"),
    ('{"a": 1e999}', "holds 1e999, which is too large"),
    ('{"a": -' + "9" * 5000 + ".5}", "holds a number, which is too large"),
    ('{"a": NaN}', "holds NaN, which is not a number"),
    ('{"a": -Infinity}', "holds -Infinity, which is not a number"),
    ('{"a": 1, "b": 2, "a": 3}', "the key 'a' stands twice, with different values"),
    ('{"a": {"b": 1, "b": true}}', "the key 'b' stands twice"),
    ('{"a": "\\ud800"}', "holds half a surrogate pair, which is not text, at '{\"a\": "),
    ('{"\\udfff": 1}', "holds half a surrogate pair"),
    ("[]", "holds a list instead of a table"),
    ("null", "holds a null instead of a table"),
    ("{\n,", "line 2: not JSON"),
    ("", "line 1: not JSON"),
    (b"\xff{}", r"not UTF-8 \(invalid start byte at byte 0\)"),
    (b'{"a": "\xed\xa0\x80"}', "not UTF-8"),
    ('{"' + "k" * 100_000 + '": 1, "' + "k" * 100_000 + '": 2}', "the key '.*' stands twice"),
], ids=lambda value: str(value)[:40])  # fmt: skip
def test_what_would_be_misread_is_refused(text, message):
    with pytest.raises(InputError, match=f"x: {message}") as refusal:
        parse_json(text, "x")
    assert len(str(refusal.value)) < 300


def test_a_key_that_stands_twice_with_one_value_is_read():
    assert parse_json('{"a": 1, "a": 1}', "x") == {"a": 1}


def test_a_whole_surrogate_pair_is_a_character():
    assert parse_json('{"a": "\\ud83d\\ude00"}', "x") == {"a": "😀"}


def test_escaped_quotes_cost_linear_time():
    with pytest.raises(InputError, match="not JSON"):
        parse_json("{" * 30 + '"' + '\\"' * 1_000_000 + "[" * 50, "x")


def test_only_files_are_read(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    for name, message in {
        "pipe": "not a file, but a pipe", "/dev/zero": "not a file, but a device", ".": "(Is a directory|not a file)",
        "absent": "no such file", "circle": "its links lead in a circle", "x" * 300: "File name too long",
        "a\0b": "not a file name",
    }.items():  # fmt: skip
        for read in (read_json, check_file):
            with pytest.raises(InputError, match=message):
                read(tmp_path / name)


def test_a_large_file_is_refused(tmp_path):
    path = tmp_path / "x.json"
    with open(path, "wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(InputError, match="x.json: larger than the 33,554,432 bytes"):
        read_json(path)


@pytest.mark.parametrize("value", [
    10**5000, -(10**5000), "x" * 10**6, ["x" * 100] * 1000, {"k" * 1000: {"v": ["\ud800"] * 99}}, 1.5, None,
    b"\0" * 999,
], ids=lambda value: type(value).__name__)  # fmt: skip
def test_quotes_are_short_and_can_be_printed(value):
    assert 0 < len(quote(value)) <= 120
    quote(value).encode()


def test_quotes_of_short_values_are_their_repr():
    for value in ("a", 3, [1, 2], {"a": None}, True):
        assert quote(value) == repr(value)


def test_a_deep_value_is_quoted_without_going_down():
    deep = value = []
    for _ in range(100_000):
        value.append(value := [])
    assert len(quote(deep)) < 120
    while deep:  # taken apart by hand: freeing it is Python's own affair
        deep = deep.pop()


def test_lists_of_names_are_short():
    assert listed(["a", "b"]) == "a, b"
    assert listed(map(str, range(1000))) == "0, 1, 2, 3, 4, 5, 6, 7 and 992 more"
    assert len(listed(["x" * 10_000] * 100)) < 1100
