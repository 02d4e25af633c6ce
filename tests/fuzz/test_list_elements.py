"""Queries in the list format: what the original makes of them, or a refusal that names the element."""

import datetime
import decimal
import fractions
from pathlib import Path

import numpy as np
from PIL import Image

from ms_impl.data.memory_images import MemoryImages
from ms_impl.errors import InputError
from ms_impl.qwenvl.list_format import from_list_format, to_list_format

VALUES = [
    None, True, 0, 7, -3, 1.5, -0.5, float("nan"), float("inf"), 10**30, 10**5000, -(10**400), "1", "", "a", b"a", [], {},
    (), [1, 2, 3, 4], [[1, 2, 3, 4]], {"x": 1}, {1, 2, 3, 4}, np.arange(4), np.ones((1, 4)), np.float32(2.5), np.int64(3),
    np.array(5), np.array(["a", "b", "c", "d"], object), decimal.Decimal("1.5"), decimal.Decimal("NaN"), 3j, object(),
    fractions.Fraction(7, 2), Path("a.png"), datetime.date(2024, 1, 1), np.datetime64("2024"), range(4), "\ud800",
    Image.new("RGB", (3, 2)), Image.new("P", (2, 2)), Image.new("L", (0, 0)), print, int, memoryview(b"abcd"),
]  # fmt: skip
TEXTS = ["", "Frame it.", "图", "<img>", "</img>", "<box>", "e\u0301", "\x00", "%d {} \\"]


def value(rng):
    return VALUES[rng.integers(len(VALUES))]


def box(rng):
    usual = [1.0, 2, np.int16(3), np.float64(4.9), True, 999, 10**18, decimal.Decimal("3.7")]
    numbers = [usual[rng.integers(len(usual))] if rng.random() < 0.95 else value(rng) for _ in range(4)]
    if rng.random() < 0.05:
        numbers = numbers[: rng.integers(0, 4)] * int(rng.integers(1, 3))
    return tuple(numbers) if rng.random() < 0.3 else numbers


def element(rng):
    if rng.random() < 0.05:
        return value(rng)
    odd = rng.random() < 0.1
    kind = rng.choice(["image", "text", "box", "box"])
    if kind == "box":
        made = {"box": value(rng) if odd else [box(rng) for _ in range(rng.integers(0, 4))]}
        made |= {"ref": value(rng) if rng.random() < 0.05 else "dog"} if rng.random() < 0.5 else {}
    elif kind == "image":
        made = {"image": value(rng) if odd else str(rng.choice(["a.png", "d/é.png", "http://h/a.png"]))}
    else:
        made = {"text": value(rng) if odd else str(rng.choice(TEXTS))}
    if rng.random() < 0.05:
        made[str(rng.choice(["type", "text", "ref", "audio"]))] = value(rng)
    return made


def make(rng, folder):
    if rng.random() < 0.05:
        return value(rng)
    return [element(rng) for _ in range(rng.integers(0, 6))]


def as_the_original(elements) -> str:
    """The original's text, in its own words for numbers."""
    text, images = "", 0
    for each in elements:
        if "image" in each:
            images += 1
            text += f"Picture {images}: <img>{each['image']}</img>\n"
        elif "text" in each:
            text += each["text"]
        else:
            text += f"<ref>{each['ref']}</ref>" if "ref" in each else ""
            for numbers in each["box"]:
                text += "<box>(%d,%d),(%d,%d)</box>" % tuple(numbers)
    return text


def run(case):
    text = from_list_format(case, MemoryImages().keep)
    if not any(isinstance(each.get("image"), Image.Image) for each in case):
        assert text == as_the_original(case)
    try:
        to_list_format(text)
    except InputError as error:
        assert str(error).startswith("Unclosed image token")


def test_list_format(fuzz):
    fuzz("list format", make, run)
