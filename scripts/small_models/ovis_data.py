"""Images of shapes to train a small Ovis on: questions, boxes, and answers that are thought over first.

    python scripts/small_models/ovis_data.py --output_path data/ovis

writes for each of ``questions`` and ``boxes`` (easy-VQA's images at several sizes) and ``counts`` (scenes of several
shapes, with a chain of thought that goes through them) a ``train_….json`` and a ``test_….json`` in Ovis's layout,
beside the folder ``images``. Boxes are in parts of the image's sides, [0, 1).

With ``--mixed`` there is ``train.json``, too, which the shipped model is trained on: conversations
about mirrored images, and questions about scenes, whose answers are thought over, or not, or their thinking is ended
before its time, as a budget does.
"""

from __future__ import annotations

import json
import random
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from easyvqa_data import KINDS, MIRRORS, ShapeImage, read_split, shape_box, shape_colour, shape_kind, shape_mask
from making import add_counts, maker
from PIL import Image, ImageColor, ImageDraw

from ms_impl.cli.main import command
from ms_impl.errors import InputError
from ms_impl.io.atomic_write import atomic_write
from ms_impl.ovis2_5.thinking import EARLY_STOP

SIDES = (64, 96, 128)  # pixels; both sides of an image are drawn from these
BOX_REQUEST = "Locate the {kind}. Please provide the bounding box coordinates."
SCENE_COLOURS = ("red", "green", "blue", "yellow")
PLACES = ("top left", "top right", "bottom left", "bottom right")

PIECES = re.compile(r" ?\w+|[^\w\n]+|\n")  # of a chain of thought, between which a budget may end it

Record = dict
Turns = Sequence[tuple[str, str]]  # questions and answers


@dataclass(frozen=True)
class Shape:
    """One shape of a scene; ``place`` counts PLACES."""

    place: int
    colour: str
    kind: str


def record(identity: str, path: str, *turns: tuple[str, str]) -> Record:
    """Questions about one image and their answers, in Ovis's layout."""
    said = []
    for number, (question, answer) in enumerate(turns):
        said.append({"from": "human", "value": question if number else f"<image>\n{question}"})
        said.append({"from": "gpt", "value": answer})
    return {"id": identity, "image": path, "conversations": said}


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
            questions.append(record(f"{path}#{number}", path, turn))
        boxes.append(record(f"{path}#box", path, box_turn(image)))
    return questions, boxes


def box_turn(image: ShapeImage) -> tuple[str, str]:
    """The request for the shape's box, and ``<ref>…</ref><box>(x1,y1),(x2,y2)</box>`` in parts of the sides."""
    mask, kind = shape_mask(image.pixels), shape_kind(image.questions)
    x1, y1, x2, y2 = (f"{edge / 1000:.3f}" for edge in shape_box(mask))
    colour = shape_colour(image.pixels, mask)
    return BOX_REQUEST.format(kind=kind), f"<ref>the {colour} {kind}</ref><box>({x1},{y1}),({x2},{y2})</box>"


def scene_shapes(chance: random.Random) -> list[Shape]:
    """One to four shapes, each in a quarter of its own."""
    places = sorted(chance.sample(range(4), chance.randint(1, 4)))
    return [Shape(place, chance.choice(SCENE_COLOURS), chance.choice(KINDS)) for place in places]


def scene(chance: random.Random) -> tuple[np.ndarray, list[Shape]]:
    """An image uint8 [H, W, 3] of some shapes, and the shapes."""
    size = chance.choice(SIDES), chance.choice(SIDES)
    shapes = scene_shapes(chance)
    return draw_scene(shapes, size, lambda: chance.uniform(0.08, 0.25)), shapes


def draw_scene(shapes: Sequence[Shape], size: tuple[int, int], margin: Callable[[], float]) -> np.ndarray:
    """Shapes in their quarters of a white image, uint8 [H, W, 3], of ``size`` (width, height).

    ``margin`` gives, for each shape across and down, the part of the quarter that stays free on either side.
    """
    width, height = size
    image = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(image)
    for shape in shapes:
        left, top = (shape.place % 2) * width // 2, (shape.place // 2) * height // 2
        inset = [margin() * side / 2 for side in size]
        box = (left + inset[0], top + inset[1], left + width / 2 - inset[0], top + height / 2 - inset[1])
        draw_shape(draw, box, shape)
    return np.asarray(image)


def draw_shape(draw: ImageDraw.ImageDraw, box: tuple[float, float, float, float], shape: Shape) -> None:
    colour = ImageColor.getrgb(shape.colour)
    if shape.kind == "circle":
        draw.ellipse(box, fill=colour)
    elif shape.kind == "rectangle":
        draw.rectangle(box, fill=colour)
    else:
        left, top, right, bottom = box
        draw.polygon([(left, bottom), (right, bottom), ((left + right) / 2, top)], fill=colour)


def count_question(colour: str) -> str:
    return f"How many shapes are {colour}?"


def thought(shapes: Sequence[Shape], asked: str) -> tuple[str, str]:
    """The chain of thought over how many shapes have the colour asked for, and the answer.

    A line tells what is seen, recalls the colour, says whether it is that one, and counts: each a small step.
    """
    count, lines = 0, []
    for shape in shapes:
        count += shape.colour == asked
        verdict = "yes" if shape.colour == asked else "no"
        lines.append(f"{PLACES[shape.place]}: {shape.colour} {shape.kind}, {asked} {verdict}, {count}")
    return "\n".join(lines), str(count)


def with_thought(chain: str, answer: str) -> str:
    return f"<think>\n{chain}\n</think>\n\n{answer}"


def cut_short(chain: str, answer: str, chance: random.Random) -> str:
    """A thinking that a budget ended somewhere in a line, and the answer nevertheless."""
    pieces = PIECES.findall(chain)
    ends = [end for end in range(1, len(pieces)) if pieces[end - 1] != "\n"]
    return f"<think>\n{''.join(pieces[: chance.choice(ends)])}{EARLY_STOP}{answer}"


def save_scene(root: Path, folder: Path, number: int, chance: random.Random) -> tuple[str, list[Shape]]:
    """Draw a scene and write it; its path below the root, and its shapes."""
    pixels, shapes = scene(chance)
    path = str(folder / f"{number}.png")
    Image.fromarray(pixels).save(root / path)
    return path, shapes


def count_records(root: Path, split: str, most: int, chance: random.Random) -> list[Record]:
    """How many shapes of a scene have a colour: every answer is thought over."""
    folder = Path("images") / split / "scenes"
    (root / folder).mkdir(parents=True)
    records = []
    for number in range(most):
        path, shapes = save_scene(root, folder, number, chance)
        asked = chance.choice([*SCENE_COLOURS, chance.choice(shapes).colour])
        records.append(record(path, path, (count_question(asked), with_thought(*thought(shapes, asked)))))
    return records


def shape_turns(image: ShapeImage, chance: random.Random) -> Turns:
    """Two questions about the shape and the request for its box; at times an answer is thought over."""
    turns = []
    seen = f"1 shape: {shape_colour(image.pixels, shape_mask(image.pixels))} {shape_kind(image.questions)}"
    for question, answer in chance.sample(image.questions, min(2, len(image.questions))):
        turns.append((question, with_thought(seen, answer) if chance.random() < 0.25 else answer))
    turns.append(box_turn(image))
    chance.shuffle(turns)
    return turns


def scene_turns(shapes: Sequence[Shape], chance: random.Random) -> Turns:
    """Three questions: one answer is thought over, one not, of one the thinking is cut short."""
    colours = [chance.choice([*SCENE_COLOURS, *(shape.colour for shape in shapes)]) for _ in range(3)]
    chains = [thought(shapes, colour) for colour in colours]
    answers = [with_thought(*chains[0]), chains[1][1], cut_short(*chains[2], chance)]
    return [(count_question(colour), answer) for colour, answer in zip(colours, answers)]


def mixed_records(root: Path, images: int, scenes: int, chance: random.Random) -> list[Record]:
    """What the shipped model is trained on: every mirror of so many images, and so many scenes."""
    mirrored = [image.mirrored(name) for image in read_split("train")[:images] for name in MIRRORS]
    records = []
    for image in mirrored:
        image = replace(image, path=f"mixed/{image.path}")
        path = save_resized(root, image, chance)
        records.append(record(path, path, *shape_turns(image, chance)))
    folder = Path("images/mixed/scenes")
    (root / folder).mkdir(parents=True)
    for number in range(scenes):
        path, shapes = save_scene(root, folder, number, chance)
        # Each alone: where several colours are asked for, whose count a line goes on with is hard to learn.
        records += [record(f"{path}#{n}", path, turn) for n, turn in enumerate(scene_turns(shapes, chance))]
    chance.shuffle(records)
    return records


def make(output: Path, images: tuple[int, int], scenes: tuple[int, int], seed: int, mixed: bool) -> dict[str, int]:
    """Write the data set, so many images and scenes to train on and to test. Returns the records by file.

    ``mixed``: ``train.json``, too.
    """
    if output.exists():
        raise InputError(f"{output} already exists; remove it or give another --output_path")
    output.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(output) as partial:
        made = {}
        for split, images_of, scenes_of in zip(("train", "test"), images, scenes):
            chance = random.Random(f"{seed}/{split}")
            made[f"{split}_questions"], made[f"{split}_boxes"] = easy_records(partial, split, images_of, chance)
            made[f"{split}_counts"] = count_records(partial, split, scenes_of, chance)
        if mixed:
            made["train"] = mixed_records(partial, images[0], scenes[0], random.Random(f"{seed}/mixed"))
        for name, records in made.items():
            text = json.dumps(records, ensure_ascii=False, indent=1)
            (partial / f"{name}.json").write_text(text, encoding="utf-8")
    return {name: len(records) for name, records in made.items()}


@command
def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; the result is its exit status."""
    parser = maker("images of shapes to train a small Ovis on")
    add_counts(parser, images=(4000, 300), scenes=(6000, 300))
    parser.add_argument("--mixed", action="store_true", help="write train.json, too: what the shipped model learns")
    options = parser.parse_args(arguments)
    made = make(options.output_path, tuple(options.images), tuple(options.scenes), options.seed, options.mixed)
    print(f"{options.output_path}: " + ", ".join(f"{name} {count:,}" for name, count in made.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
