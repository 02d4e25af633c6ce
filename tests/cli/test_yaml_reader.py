"""YAML of settings: what its texts stand for, and what is refused, with the line."""

import math
import os

import pytest

from ms_impl.cli.yaml_reader import LONGEST_FILE, MOST_VALUES, parse, plain, read_yaml
from ms_impl.errors import InputError

LAUGHS = "\n".join([f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" if n else "a0: &a0 lol" for n in range(10)])
MERGED_LAUGHS = "\n".join(
    f"a{n}: &a{n} {{<<: [*a{n - 1}, *a{n - 1}], k{n}: 1}}" if n else "a0: &a0 {x: 1}" for n in range(20)
)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4), ("1E5", 1e5), (".5e-3", 0.5e-3), ("1.0e-8", 1e-8), ("-2", -2), ("+3", 3), ("10_000", 10000),
        ("0x1F", 31), ("1.", 1.0), (".inf", math.inf), ("-.inf", -math.inf), ("2001-99-99", "2001-99-99"),
        ("2001-01-01", "2001-01-01"), ("1:30", "1:30"), ("1e", "1e"), ("0b11", "0b11"), ("1.2.3", "1.2.3"),
        ("True", True), ("no", False), ("~", None), ("", None), ("nan", "nan"), ("=", "="), ("e5", "e5"),
        ("'1e-4'", "1e-4"), ("!!str 1", "1"), ('"true"', "true"),
    ],
)  # fmt: skip
def test_what_a_text_stands_for(text, value):
    found = parse(f"a: {text}", "x.yaml")["a"]
    assert found == value and type(found) is type(value)


def test_not_a_number_is_one():
    assert math.isnan(plain(".nan"))


def test_keys_are_texts():
    assert parse("1: a\nyes: b\n2001-01-01: c", "x.yaml") == {"1": "a", "yes": "b", "2001-01-01": "c"}


def test_an_alias_is_the_same_section_and_a_merged_one_a_copy():
    settings = parse("a: &a {x: {y: 1}}\nb: *a\nc: {<<: *a, z: 2}\nd: {x: 3, <<: [*a, {w: 4}]}", "x.yaml")
    assert settings["b"] is settings["a"]
    assert settings["c"] == {"x": {"y": 1}, "z": 2} and settings["c"]["x"] is not settings["a"]["x"]
    assert settings["d"] == {"x": 3, "w": 4}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3", "x.yaml: line 3: a: is given twice, first in line 1"),
        ("a:\n  b: 1\n  c: 1\n  b: 2", "x.yaml: line 4: a.b: is given twice, first in line 2"),
        ("optimizer: {type: A}\nseed: 1\noptimizer: {type: B}", "line 3: optimizer: is given twice, first in line 1"),
        ("1: a\n'1': b", "line 2: 1: is given twice"),
        ("a: &a [*a]", "line 1: a[0]: *a contains itself"),
        ("a: &a {b: *a}", "a.b: *a contains itself"),
        ("a: *b", "line 1: a: *b has no anchor before it"),
        ("a: &x 1\nb: &x 2", "line 2: b: the anchor &x is given twice"),
        (LAUGHS, f"more than {MOST_VALUES:,} values, those of aliases counted"),
        (MERGED_LAUGHS, f"more than {MOST_VALUES:,} values, those of aliases counted"),
        ("a: {<<: 1}", "a: << expects a table or a list of tables"),
        ("[" * 100_000, "more than 32 tables and lists within each other"),
        ("- " * 5000 + "1", "more than 32 tables and lists within each other"),
        ("{a: " * 3000, "more than 32 tables and lists within each other"),
        ("a: !!python/object/apply:os.system ['x']", "a: the tag tag:yaml.org,2002:python/object/apply:os.system is not"),
        ("a: !!timestamp 2001-01-01", "a: the tag tag:yaml.org,2002:timestamp is not supported"),
        ("a: !!binary aGk=", "the tag tag:yaml.org,2002:binary is not supported"),
        ("a: " + "9" * 5000, "line 1: a: a number of 5,000 characters"),
        ("a: 1e999", "a: 1e999 is too large a number"),
        ("a: 010", "a: 010: a number does not begin with 0"),
        ("? [a]\n: 1", "line 1: expected a text as key"),
        ("'': 1", "expected a text as key"),
        ("*a : 1", "expected a text as key"),
        ('a: "\\ud800"', "a: a text holds a character that no file can hold"),
        ('a: "\\0"', "a: a text holds a character that no file can hold"),
        ('a: "\\Uffffffff"', "x.yaml: not YAML"),
        ('a: "\\U00110000"', "x.yaml: not YAML"),
        ("a: 1\n---\nb: 2", "line 2: a second document begins"),
        ("a: [1", "x.yaml: line 1: not YAML (expected"),
        ("a: b: c", "x.yaml: line 1: not YAML (mapping values are not allowed here)"),
        ("%YAML " + "9" * 5000 + ".1\n---\na: 1", "x.yaml: "),
        (f"{'k' * 300}: 1", "a key of 300 characters"),
    ],
)  # fmt: skip
def test_what_is_refused_is_named_with_its_line(text, message):
    with pytest.raises(InputError) as caught:
        parse(text, "x.yaml")
    assert message in str(caught.value) and str(caught.value).startswith("x.yaml: ")
    assert len(str(caught.value)) < 400


def test_a_file_that_is_none(tmp_path):
    os.mkfifo(tmp_path / "pipe.yaml")
    (tmp_path / "long.yaml").write_text("a: 1\n" + "#" * LONGEST_FILE)
    (tmp_path / "latin.yaml").write_bytes("a: é".encode("latin-1"))
    for path, message in (
        (tmp_path / "pipe.yaml", "pipe.yaml: is not a regular file"),
        (tmp_path, "is not a regular file"),
        (tmp_path / "long.yaml", "long.yaml: is longer than 262,144 bytes"),
        (tmp_path / "latin.yaml", "latin.yaml: not YAML (byte 3 is not UTF-8)"),
        (tmp_path / ("x" * 5000), "cannot be read (File name too long)"),
        (tmp_path / "a\0b", "cannot be read (embedded null byte)"),
    ):
        with pytest.raises(InputError) as caught:
            read_yaml(path)
        assert message in str(caught.value)
