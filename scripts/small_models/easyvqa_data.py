"""easy-VQA → conversations and images to fine-tune and test on: questions answered, and the shape boxed.

    python scripts/small_models/easyvqa_data.py --output_path data/easyvqa

writes ``train.json``, ``validation_questions.json``, ``validation_boxes.json``, ``test_questions.json`` and
``test_boxes.json`` beside a folder ``images``. Training dialogues ask several questions of one image in random order;
the others hold one each, as accuracy is measured. The validation images are the last ones of easy-VQA's train split
and are not trained on.
"""

from __future__ import annotations

import json
import random
import sys
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import easy_vqa
import numpy as np
from making import maker
from PIL import Image, ImageColor

from ms_impl.cli.main import command
from ms_impl.errors import InputError
from ms_impl.io.atomic_write import atomic_write

KINDS = ("circle", "rectangle", "triangle")
COLOURS = tuple(sorted(set(easy_vqa.get_answers()) - {*KINDS, "yes", "no"}))
BOX_REQUESTS = (
    "Frame the shape in the picture.",
    "Box the {colour} {kind}.",
    "Where is the {kind}?",
    "Locate the {colour} shape.",
    "框出图中的图形",
)
DESCRIPTION_REQUEST = "Describe the image in English:"
VALIDATION_IMAGES = 200
COORDINATES = 1000  # boxes count thousandths of the image's width and height, 0–999

# Mirrors of a training image: the file name's suffix, and whether left and right, top and bottom change places.
MIRRORS = {"": (False, False), "h": (True, False), "v": (False, True), "hv": (True, True)}

Box = tuple[int, int, int, int]
Turn = tuple[str, str]  # question, answer


@dataclass(frozen=True)
class ShapeImage:
    """One image with what is asked of it. ``path`` is relative to the images folder; ``pixels`` uint8 [H, W, 3]."""

    path: str
    pixels: np.ndarray
    questions: tuple[Turn, ...]

    def mirrored(self, name: str) -> "ShapeImage":
        """One of MIRRORS. The answers stay true: none depends on where the shape is."""
        left_right, top_bottom = MIRRORS[name]
        rows, columns = (slice(None, None, -1 if flip else None) for flip in (top_bottom, left_right))
        path = Path(self.path)
        return replace(self, path=str(path.with_stem(path.stem + name)), pixels=self.pixels[rows, columns])


def shape_mask(pixels: np.ndarray) -> np.ndarray:
    """Which pixels the shape covers at least half: bool [H, W] of uint8 [H, W, 3].

    The background has one colour, the commonest along the frame; smoothed edges lie between it and the shape's colour.
    """
    levels = pixels.astype(int)
    frame = np.concatenate([levels[0], levels[-1], levels[:, 0], levels[:, -1]])
    colours, counts = np.unique(frame, axis=0, return_counts=True)
    difference = np.abs(levels - colours[counts.argmax()]).sum(-1)
    return 2 * difference > difference.max()


def shape_box(mask: np.ndarray) -> Box:
    """(x1, y1, x2, y2) of the covered pixels in thousandths of the image; the right and lower edges lie outside."""
    (rows,), (columns,) = mask.any(1).nonzero(), mask.any(0).nonzero()
    height, width = mask.shape
    edges = (columns[0] / width, rows[0] / height, (columns[-1] + 1) / width, (rows[-1] + 1) / height)
    return tuple(min(round(edge * COORDINATES), COORDINATES - 1) for edge in edges)


def shape_colour(pixels: np.ndarray, mask: np.ndarray) -> str:
    """The easy-VQA colour nearest to the covered pixels' median."""
    median = np.median(pixels[mask], axis=0)
    return min(COLOURS, key=lambda name: np.abs(median - ImageColor.getrgb(name)).sum())


def shape_kind(questions: Iterable[Turn]) -> str:
    """circle, rectangle or triangle, as the questions tell; ``shape`` where none does."""
    for question, answer in questions:
        negated = " not " in question or " no " in question
        affirmed = answer == ("no" if negated else "yes") or answer in COLOURS
        for kind in KINDS:
            if answer == kind or (affirmed and kind in question):
                return kind
    return "shape"


def box_turns(image: ShapeImage) -> list[Turn]:
    """Every way of asking where the shape is, each with its answer ``<ref>…</ref><box>…</box>``."""
    mask = shape_mask(image.pixels)
    words = {"colour": shape_colour(image.pixels, mask), "kind": shape_kind(image.questions)}
    answer = "<ref>the {colour} {kind}</ref><box>({},{}),({},{})</box>".format(*shape_box(mask), **words)
    return [(request.format(**words), answer) for request in BOX_REQUESTS]


def test_box_turn(image: ShapeImage) -> Turn:
    """The one box request that tests put: it gives away neither colour nor kind."""
    return box_turns(image)[0]


def description(image: ShapeImage) -> Turn:
    """The request for a description, and a sentence."""
    colour = shape_colour(image.pixels, shape_mask(image.pixels))
    return DESCRIPTION_REQUEST, f"A {colour} {shape_kind(image.questions)}."


def read_split(split: str) -> list[ShapeImage]:
    """The images of easy-VQA's ``train`` or ``test`` split in the order of their ids."""
    read_questions = {"train": easy_vqa.get_train_questions, "test": easy_vqa.get_test_questions}[split]
    read_paths = {"train": easy_vqa.get_train_image_paths, "test": easy_vqa.get_test_image_paths}[split]
    questions = defaultdict(list)
    for question, answer, image in zip(*read_questions()):
        questions[image].append((question, answer))
    return [
        ShapeImage(f"{split}/{image}.png", np.asarray(Image.open(path).convert("RGB")), tuple(questions[image]))
        for image, path in sorted(read_paths().items())
    ]


def dialogue(identity: str, image: ShapeImage, turns: Sequence[Turn]) -> dict:
    """One conversation record about an image, which stands before the first question."""
    conversations = []
    for number, (question, answer) in enumerate(turns):
        shown = f"Picture 1: <img>{image.path}</img>\n" if number == 0 else ""
        conversations.append({"from": "user", "value": shown + question})
        conversations.append({"from": "assistant", "value": answer})
    return {"id": identity, "conversations": conversations}


def training_dialogues(images: Sequence[ShapeImage], turns: int, rounds: int, chance: random.Random) -> list[dict]:
    """``rounds`` dialogues of each image: some of its questions, one box request, and at times a description."""
    dialogues = []
    for number in range(rounds):
        for image in images:
            asked = chance.sample(image.questions, min(turns - 1, len(image.questions)))
            asked.append(chance.choice(box_turns(image)))
            if chance.random() < 1 / len(BOX_REQUESTS):
                asked[0] = description(image)
            chance.shuffle(asked)
            dialogues.append(dialogue(f"{image.path}#{number}", image, asked))
    return dialogues


def question_dialogues(images: Iterable[ShapeImage]) -> list[dict]:
    """One dialogue for every question."""
    return [
        dialogue(f"{image.path}#{number}", image, [turn])
        for image in images
        for number, turn in enumerate(image.questions)
    ]


def box_dialogues(images: Iterable[ShapeImage]) -> list[dict]:
    """One dialogue for every image, which asks for the box."""
    return [dialogue(f"{image.path}#box", image, [test_box_turn(image)]) for image in images]


def save_images(folder: Path, images: Iterable[ShapeImage]) -> None:
    """Write each image as PNG under its path."""
    for image in images:
        path = folder / image.path
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.pixels).save(path)


def make(output: Path, turns: int, rounds: int, seed: int) -> dict[str, int]:
    """Write the whole data set; returns the number of dialogues by file. Equal arguments give equal files."""
    if output.exists():
        raise InputError(f"{output} already exists; remove it or give another --output_path")
    train, test = read_split("train"), read_split("test")
    train, validation = train[:-VALIDATION_IMAGES], train[-VALIDATION_IMAGES:]
    train = [image.mirrored(name) for name in MIRRORS for image in train]
    files = {
        "train": training_dialogues(train, turns, rounds, random.Random(seed)),
        "validation_questions": question_dialogues(validation),
        "validation_boxes": box_dialogues(validation),
        "test_questions": question_dialogues(test),
        "test_boxes": box_dialogues(test),
    }
    output.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(output) as partial:
        save_images(partial / "images", (*train, *validation, *test))
        for name, dialogues in files.items():
            text = json.dumps(dialogues, ensure_ascii=False, indent=1)
            (partial / f"{name}.json").write_text(text, encoding="utf-8")
    return {name: len(dialogues) for name, dialogues in files.items()}


@command
def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; the result is its exit status."""
    parser = maker("easy-VQA → conversations and images")
    parser.add_argument("--turns", type=int, default=4, help="questions in a training dialogue, the box included")
    parser.add_argument("--rounds", type=int, default=1, help="dialogues of each mirror of each training image")
    options = parser.parse_args(arguments)
    counts = make(options.output_path, options.turns, options.rounds, options.seed)
    print(f"{options.output_path}: " + ", ".join(f"{name} {count:,} dialogues" for name, count in counts.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
