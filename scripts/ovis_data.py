"""Images of shapes to train a small Ovis on: questions, boxes, and answers that are thought over first.

    python scripts/ovis_data.py --output_path data/ovis

writes for each of ``questions`` and ``boxes`` (easy-VQA's images at several sizes) and ``counts`` (scenes of several
shapes, with a chain of thought that goes through them) a ``train_….json`` and a ``test_….json`` in Ovis's layout,
beside the folder ``images``. Boxes are in parts of the image's sides, [0, 1).
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from easyvqa_data import ShapeImage, read_split, shape_box, shape_colour, shape_kind, shape_mask
from PIL import Image, ImageColor, ImageDraw

from ms_impl.cli.main import command
from ms_impl.errors import InputError
from ms_impl.io.atomic_write import atomic_write

SIDES = (64, 96, 128)  # pixels; both sides of an image are drawn from these
BOX_REQUEST = "Locate the {kind}. Please provide the bounding box coordinates."
SCENE_COLOURS = ("red", "green", "blue", "yellow")
SCENE_KINDS = ("circle", "rectangle", "triangle")
PLACES = ("top left", "top right", "bottom left", "bottom right")

Record = dict


@dataclass(frozen=True)
class Shape:
    """One shape of a scene; ``place`` counts PLACES."""

    place: int
    colour: str
    kind: str


def record(identity: str, path: str, question: str, answer: str) -> Record:
    """One question about one image, in Ovis's layout."""
    turns = [{"from": "human", "value": f"<image>\n{question}"}, {"from": "gpt", "value": answer}]
    return {"id": identity, "image": path, "conversations": turns}


def save_resized(root: Path, image: ShapeImage, chance: random.Random) -> str:
    """Write an image at a size of SIDES; its path below the root."""
    path = Path("images") / image.path
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    size = chance.choice(SIDES), chance.choice(SIDES)
    Image.fromarray(image.pixels).resize(size, Image.Resampling.BICUBIC).save(root / path)
    return str(path)


def easy_records(root: Path, split: str, most: int, chance: random.Random) -> tuple[list[Record], list[Record]]:
    """Questions and boxes of ``most`` images of a split of easy-VQA, a few questions an image."""
    questions, boxes = [], []
    for image in read_split(split)[:most]:
        path = save_resized(root, image, chance)
        for number, turn in enumerate(chance.sample(image.questions, min(4, len(image.questions)))):
            questions.append(record(f"{path}#{number}", path, *turn))
        boxes.append(record(f"{path}#box", path, *box_turn(image)))
    return questions, boxes


def box_turn(image: ShapeImage) -> tuple[str, str]:
    """The request for the shape's box, and ``<ref>…</ref><box>(x1,y1),(x2,y2)</box>`` in parts of the sides."""
    mask, kind = shape_mask(image.pixels), shape_kind(image.questions)
    x1, y1, x2, y2 = (f"{edge / 1000:.3f}" for edge in shape_box(mask))
    colour = shape_colour(image.pixels, mask)
    return BOX_REQUEST.format(kind=kind), f"<ref>the {colour} {kind}</ref><box>({x1},{y1}),({x2},{y2})</box>"


def scene(chance: random.Random) -> tuple[np.ndarray, list[Shape]]:
    """A image uint8 [H, W, 3] with one to four shapes, each in a quarter of its own."""
    width, height = chance.choice(SIDES), chance.choice(SIDES)
    image = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(image)
    shapes = []
    for place in sorted(chance.sample(range(4), chance.randint(1, 4))):
        shape = Shape(place, chance.choice(SCENE_COLOURS), chance.choice(SCENE_KINDS))
        left, top = (place % 2) * width // 2, (place // 2) * height // 2
        inset = [chance.uniform(0.08, 0.25) * side / 2 for side in (width, height)]
        box = (left + inset[0], top + inset[1], left + width / 2 - inset[0], top + height / 2 - inset[1])
        draw_shape(draw, box, shape)
        shapes.append(shape)
    return np.asarray(image), shapes


def draw_shape(draw: ImageDraw.ImageDraw, box: tuple[float, float, float, float], shape: Shape) -> None:
    colour = ImageColor.getrgb(shape.colour)
    if shape.kind == "circle":
        draw.ellipse(box, fill=colour)
    elif shape.kind == "rectangle":
        draw.rectangle(box, fill=colour)
    else:
        left, top, right, bottom = box
        draw.polygon([(left, bottom), (right, bottom), ((left + right) / 2, top)], fill=colour)


def thought(shapes: Sequence[Shape], asked: str) -> tuple[str, str]:
    """The chain of thought over how many shapes have the colour asked for, and the answer."""
    count, lines = 0, []
    for shape in shapes:
        count += shape.colour == asked
        lines.append(f"{PLACES[shape.place]}: {shape.colour} {shape.kind}, {count}")
    return "\n".join(lines), str(count)


def count_records(root: Path, split: str, most: int, chance: random.Random) -> list[Record]:
    """How many shapes of a scene have a colour: every answer is thought over."""
    folder = Path("images") / split / "scenes"
    (root / folder).mkdir(parents=True)
    records = []
    for number in range(most):
        pixels, shapes = scene(chance)
        path = str(folder / f"{number}.png")
        Image.fromarray(pixels).save(root / path)
        asked = chance.choice([*SCENE_COLOURS, chance.choice(shapes).colour])
        chain, answer = thought(shapes, asked)
        question = f"How many shapes are {asked}?"
        records.append(record(path, path, question, f"<think>\n{chain}\n</think>\n\n{answer}"))
    return records


def make(output: Path, images: tuple[int, int], scenes: tuple[int, int], seed: int) -> dict[str, int]:
    """Write the data set, so many images and scenes to train on and to test. Returns the records by file."""
    if output.exists():
        raise InputError(f"{output} already exists; remove it or give another --output_path")
    output.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(output) as partial:
        made = {}
        for split, images_of, scenes_of in zip(("train", "test"), images, scenes):
            chance = random.Random(f"{seed}/{split}")
            made[f"{split}_questions"], made[f"{split}_boxes"] = easy_records(partial, split, images_of, chance)
            made[f"{split}_counts"] = count_records(partial, split, scenes_of, chance)
        for name, records in made.items():
            text = json.dumps(records, ensure_ascii=False, indent=1)
            (partial / f"{name}.json").write_text(text, encoding="utf-8")
    return {name: len(records) for name, records in made.items()}


@command
def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; the result is its exit status."""
    parser = argparse.ArgumentParser(description="images of shapes to train a small Ovis on")
    parser.add_argument("--output_path", type=Path, required=True, help="directory to make")
    for kind, most in (("images", (4000, 300)), ("scenes", (6000, 300))):
        help = f"{kind} to train on and to test"
        parser.add_argument(f"--{kind}", type=int, nargs=2, default=most, metavar=("TRAIN", "TEST"), help=help)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    made = make(options.output_path, tuple(options.images), tuple(options.scenes), options.seed)
    print(f"{options.output_path}: " + ", ".join(f"{name} {count:,}" for name, count in made.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
