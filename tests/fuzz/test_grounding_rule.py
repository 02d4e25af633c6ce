"""Boxes of answers against Qwen-VL's official evaluation, whose rule stands here once more, with torch."""

import math
import re

import torch

from ms_impl.evaluate.grounding import HIT, Target, box_iou
from ms_impl.qwenvl.boxes import BOXES

NUMBERS = ("{}", "-{}", "{}.", "{}.5", ".{}", " {}", "{} ", "+{}", "{}e1", "1_{}", "0{}", "\u2212{}", "{}%", "<{}>")
ODD = ("", " ", "nan", "inf", "-inf", "Infinity", "1e999", "1e38", "4e38", "１２", "४", "0x10", "9" * 400, "x", "(",
       ")", "\n3", "3\n", "\u2028" + "5", "\x1c7", "1__0", "1e-46", "5,6")  # fmt: skip
BETWEEN = ("),(",) * 8 + ("), (", "),\n(", ") (", "),", "),((", ")),(", "),(),(", "]),([", "")
AROUND = ("", "<box>", "</box>", "<ref>a (small) dog</ref>", "\n", "(", "), (", "the dog", "。", "(1,2),(3,4)", "((")


def official(answer: str, box: list[float], size: tuple[int, int]) -> float:
    """The IoU as ``eval_mm/evaluate_grounding.py`` computes it: NaN for some boxes."""
    found = re.findall(r"\((.*?)\),\((.*?)\)", answer)
    predicted = (0.0,) * 4
    if found and all("," in half for half in found[0]):
        try:
            (x1, y1), (x2, y2) = (map(float, half.split(",")) for half in found[0])
            predicted = (x1, y1, x2, y2)
        except ValueError:
            pass
    first = torch.tensor(predicted, dtype=torch.float32) / 999
    first[0::2] *= size[0]
    first[1::2] *= size[1]
    second = torch.tensor(box, dtype=torch.float32)
    sides = (torch.min(first[2:], second[2:]) - torch.max(first[:2], second[:2])).clamp(min=0)
    shared = sides[0] * sides[1]
    areas = [(b[2] - b[0]) * (b[3] - b[1]) for b in (first, second)]
    return (shared / (areas[0] + areas[1] - shared)).item()


def make(rng, folder):
    size = tuple(int(n) for n in rng.integers(1, 3000, 2))
    box = [float(edge) for edge in (rng.random(4) * [*size, *size])]
    box = [min(box[0], box[2]), min(box[1], box[3]), max(box[0], box[2]) + 1, max(box[1], box[3]) + 1]
    if rng.random() < 0.5:
        box = [float(round(edge)) for edge in box]
    pieces = [str(rng.choice(AROUND)) for _ in range(rng.integers(3))]
    pieces += [_text(rng, box, size), *(str(rng.choice(AROUND)) for _ in range(rng.integers(3)))]
    return "".join(pieces), box, size


def _text(rng, box, size) -> str:
    """Coordinates near the right ones, exactly half of them, or anywhere; some are odd, some marks are wrong."""
    edges = [edge / side * 999 for edge, side in zip(box, [*size, *size])]
    kind = rng.random()
    if kind < 0.3:
        edges[2] = (edges[0] + edges[2]) / 2
    elif kind < 0.6:
        edges = [edge + rng.normal() * 60 for edge in edges]
    elif kind < 0.7:
        edges = list(rng.integers(-100, 1200, 4))
    exact = rng.random() < 0.3
    texts = [repr(float(edge)) if exact else str(round(edge)) for edge in edges]
    for place in range(4):
        if rng.random() < 0.08:
            texts[place] = str(rng.choice(NUMBERS)).format(abs(round(edges[place])))
        elif rng.random() < 0.04:
            texts[place] = str(rng.choice(ODD))
    between = str(rng.choice(BETWEEN))
    return f"({texts[0]},{texts[1]}{between}{texts[2]},{texts[3]})"


def run(case) -> None:
    answer, box, size = case
    expected, found = official(answer, box, size), box_iou(answer, Target(tuple(box), size), BOXES)
    assert (found >= HIT) == (expected >= HIT), (answer, found, expected)
    assert found == (0.0 if math.isnan(expected) else expected), (answer, found, expected)


def test_grounding(fuzz):
    fuzz("grounding", make, run)
