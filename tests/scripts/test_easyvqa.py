"""easy-VQA as conversations, and its boxes."""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts/small_models"))

import easyvqa_data as data


@pytest.fixture(scope="module")
def images():
    return data.read_split("test")[:60]


def white_with(rows: slice, columns: slice, colour=(0, 128, 128)) -> np.ndarray:
    pixels = np.full((64, 64, 3), 250, np.uint8)
    pixels[rows, columns] = colour
    return pixels


def test_box_of_a_known_rectangle():
    mask = data.shape_mask(white_with(slice(8, 24), slice(32, 64)))
    assert data.shape_box(mask) == (500, 125, 999, 375)


def test_boxes_hold_the_shape_and_no_more(images):
    """By another measure than the code's: the channel that differs most, a margin either side of one half."""
    for image in images:
        box = data.shape_box(data.shape_mask(image.pixels))
        left, top, right, bottom = (round(edge * 64 / data.COORDINATES) for edge in box)
        unlike = np.abs(image.pixels - np.median(image.pixels[[0, 0, -1, -1], [0, -1, 0, -1]], axis=0)).max(-1)
        outside = unlike.copy()
        outside[top:bottom, left:right] = 0
        assert outside.max() <= 0.6 * unlike.max(), image.path
        for edge in (unlike[top], unlike[bottom - 1], unlike[:, left], unlike[:, right - 1]):
            assert edge.max() >= 0.4 * unlike.max(), image.path


def test_colours_of_the_pixels_are_the_answers(images):
    for image in images:
        said = {answer for _, answer in image.questions if answer in data.COLOURS}
        assert said <= {data.shape_colour(image.pixels, data.shape_mask(image.pixels))}


@pytest.mark.parametrize(
    "question, answer, kind",
    [
        ("what shape is present?", "circle", "circle"),
        ("is no triangle present?", "no", "triangle"),
        ("is there a triangle?", "no", "shape"),
        ("what color is the rectangle?", "red", "rectangle"),
        ("is a red shape present?", "yes", "shape"),
    ],
)
def test_kind_as_a_question_tells_it(question, answer, kind):
    assert data.shape_kind([(question, answer)]) == kind


def test_mirrors_move_the_box_along():
    image = data.ShapeImage("train/0.png", white_with(slice(8, 24), slice(40, 60)), (("is there a circle?", "no"),))
    mirrored = image.mirrored("hv")
    assert mirrored.path == "train/0hv.png"
    assert data.shape_box(data.shape_mask(mirrored.pixels)) == (62, 625, 375, 875)


def test_dialogues_are_repeatable_and_show_the_picture_once(images):
    first, second = (data.training_dialogues(images, 7, 1, random.Random(3)) for _ in range(2))
    assert first == second != data.training_dialogues(images, 7, 1, random.Random(4))
    for record in first:
        text = json.dumps(record)
        assert text.count("<img>") == 1 and "<img>" in record["conversations"][0]["value"]
        assert text.count("<box>") == 1


def test_dialogues_to_evaluate_ask_one_thing_each(images):
    asked = data.question_dialogues(images)
    assert [turns(record) for record in asked] == [
        [f"Picture 1: <img>{image.path}</img>\n{question}", answer]
        for image in images
        for question, answer in image.questions
    ]
    boxes = data.box_dialogues(images)
    assert len(boxes) == len(images) and all(turns(record)[1].count("<box>") == 1 for record in boxes)
    assert len({record["id"] for record in (*asked, *boxes)}) == len(asked) + len(boxes)


def turns(record: dict) -> list[str]:
    return [turn["value"] for turn in record["conversations"]]


def test_data_is_not_written_over_what_exists(tmp_path, capsys):
    assert data.main(["--output_path", str(tmp_path)]) == 2
    assert "already exists" in capsys.readouterr().err
