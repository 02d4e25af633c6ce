"""Answers with boxes of all sorts: read as the original reads them, drawn in bounded time."""

import time

import numpy as np
from PIL import Image

from ms_impl.data.box_drawing import draw_boxes
from ms_impl.data.boxes import FURTHEST
from ms_impl.qwenvl.boxes import BOXES

DIGITS = "9" * 6000
NUMBERS = [
    "0",
    "7",
    "500",
    "999",
    "1000",
    "-10",
    "+5",
    "1_0",
    "007",
    "1.5",
    "",
    " ",
    "x",
    "٣",
    "²",
    "1e3",
    "--1",
    "0" * 5000,
]
LETTERS = [
    "a",
    "狗",
    "\ud800",
    "\u202e",
    "\x00",
    "\x1b[0m",
    "é",
    "𒀀",
    "🐕",
    "\n",
    " ",
    "",
    "</ref>",
    "<box>",
    "<img>",
    "%s",
]


def number(rng: np.random.Generator) -> str:
    if rng.random() < 0.2:
        return rng.choice(["", "-"]) + DIGITS[: int(rng.choice([9, 10, 11, 19, 309, 4299, 4301, 6000]))]
    return str(rng.choice(NUMBERS)) if rng.random() < 0.3 else str(rng.integers(-200, 1300))


def corners(rng: np.random.Generator, count: int) -> str:
    numbers = [number(rng) for _ in range(count + int(rng.choice([0, 0, 0, 0, -1, 1])))]
    form = rng.choice(["pairs", "flat", "brackets", "noise"])
    if form == "pairs":
        return ",".join(f"({x},{y})" for x, y in zip(numbers[::2], numbers[1::2]))
    flat = ",".join(numbers)
    return {"flat": flat, "brackets": f"({flat})", "noise": flat.replace(",", rng.choice([", ", "),(", ",,", ";"]))}[
        form
    ]


def make(rng, folder):
    parts = []
    for _ in range(rng.integers(0, 8)):
        tag = str(rng.choice(["ref", "box", "box", "box", "quad", "img"]))
        content = {"box": lambda: corners(rng, 4), "quad": lambda: corners(rng, 8)}.get(
            tag, lambda: "".join(rng.choice(LETTERS, rng.integers(0, 6))) * int(rng.choice([1, 1, 1, 500]))
        )()
        parts.append(f"<{tag}>{content}</{tag}>" if rng.random() < 0.95 else f"<{tag}>{content}")
    if rng.random() < 0.02:
        parts = [str(rng.choice(["<ref>", "<box>", "<box></ref>"])) * 20_000]
    return tuple(rng.integers(1, 400, 2).tolist()), "".join(parts)


def as_the_original(content: str) -> tuple[int, ...] | None:
    """Four numbers by Python's ``int``; None where it raises for a reason other than length."""
    parts = [part.strip() for part in content.replace("(", "").replace(")", "").split(",")]
    long = [len(part) > 4000 and part.lstrip("+-").isdecimal() for part in parts]
    try:
        values = [0 if many else int(part) for part, many in zip(parts, long)]
    except ValueError:
        return None
    for place, many in enumerate(long):
        if many and parts[place].lstrip("+-0"):
            values[place] = -(10**9) if parts[place].startswith("-") else 10**9
    return tuple(max(-FURTHEST, min(value, FURTHEST)) for value in values) if len(values) == 4 else None


def run(case):
    size, answer = case
    expected = []
    rest = answer
    while "<" in rest:  # the mark-up read a second way
        begin = min((at for tag in ("ref", "box", "quad", "img") if (at := rest.find(f"<{tag}>")) >= 0), default=-1)
        if begin < 0 or len(answer) > 80_000:
            break
        tag = rest[begin + 1 : rest.index(">", begin)]
        content, closed, after = rest[begin + len(tag) + 2 :].partition(f"</{tag}>")
        if closed and tag == "box" and (box := as_the_original(content)):
            expected.append(box)
        rest = after if closed else rest[begin + 1 :]
    assert [sum(box.corners, ()) for box in BOXES.boxes(answer)] == expected
    image = Image.new("RGB", size)
    begun = time.perf_counter()
    drawn = draw_boxes(image, answer, BOXES)
    assert time.perf_counter() - begun < 3, "slow"  # a first look for a font takes a second
    assert (drawn is None) == (not BOXES.regions(answer))
    assert drawn is None or drawn.size == size


def test_boxes(fuzz):
    fuzz("boxes", make, run)
