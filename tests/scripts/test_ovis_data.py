"""The data of the small Ovis: answers are true of the images, and a seed makes the same ones again."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageColor
from safetensors.numpy import load_file

SCRIPT = Path(__file__).parents[2] / "scripts/small_models/ovis_data.py"
COUNTS = ["--images", "12", "4", "--scenes", "20", "5", "--mixed"]


def make(folder: Path) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, str(SCRIPT), "--output_path", str(folder), *COUNTS], capture_output=True, text=True
    )


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("ovis") / "data"
    assert make(folder).returncode == 0
    return folder


def test_boxes_frame_the_shape(data):
    for each in json.loads((data / "train_boxes.json").read_text()):
        pixels = np.asarray(Image.open(data / each["image"]).convert("RGB")).astype(int)
        x1, y1, x2, y2 = map(float, re.findall(r"\d\.\d+", each["conversations"][1]["value"]))
        assert 0 <= x1 < x2 < 1 and 0 <= y1 < y2 < 1
        height, width, _ = pixels.shape
        outside = pixels.copy()
        outside[int(y1 * height) : round(y2 * height) + 1, int(x1 * width) : round(x2 * width) + 1] = pixels[0, 0]
        assert (np.abs(outside - pixels[0, 0]).sum(-1) > 200).mean() < 0.01


def test_counts_are_those_of_the_picture_and_of_the_thought(data):
    for each in json.loads((data / "train_counts.json").read_text()):
        question, answer = (turn["value"] for turn in each["conversations"])
        asked = re.search(r"are (\w+)\?", question)[1]
        chain, count = re.fullmatch(r"<think>\n(.*)\n</think>\n\n(\d)", answer, re.DOTALL).groups()
        pixels = np.asarray(Image.open(data / each["image"]))
        height, width, _ = pixels.shape
        near = (np.abs(pixels.astype(int) - ImageColor.getrgb(asked)).sum(-1) < 30).reshape(2, height // 2, 2, -1)
        assert near.any((1, 3)).sum() == chain.count(f": {asked} ") == int(count)


def test_what_is_trained_thinks_or_not_or_is_cut_short_and_is_right(data):
    records = json.loads((data / "train.json").read_text())
    assert len(records) == 12 * 4 + 3 * 20
    forms = {"whole": 0, "cut": 0, "none": 0}
    for each in records:
        turns = [turn["value"] for turn in each["conversations"]]
        assert [turn.startswith("<image>\n") for turn in turns] == [True, *[False] * (len(turns) - 1)]
        for question, answer in zip(turns[::2], turns[1::2]):
            if not (asked := re.search(r"are (\w+)\?", question)):
                continue
            pixels = np.asarray(Image.open(data / each["image"]))
            near = np.abs(pixels.astype(int) - ImageColor.getrgb(asked[1])).sum(-1) < 30
            assert near.reshape(2, pixels.shape[0] // 2, 2, -1).any((1, 3)).sum() == int(answer.rsplit("\n", 1)[-1])
            forms["cut" if "Considering" in answer else "whole" if "<think>" in answer else "none"] += 1
    assert min(forms.values()) == max(forms.values()) == 20


def test_pictures_have_several_sizes_and_a_seed_makes_them_again(data, tmp_path):
    assert make(tmp_path / "again").returncode == 0
    files = sorted(path.relative_to(data) for path in data.rglob("*") if path.is_file())
    assert all((data / file).read_bytes() == (tmp_path / "again" / file).read_bytes() for file in files)
    assert len({Image.open(data / file).size for file in files if file.suffix == ".png"}) > 3


def test_a_directory_that_exists_is_kept(data):
    again = make(data)
    assert again.returncode == 2 and "already exists" in again.stderr


@pytest.mark.slow
def test_the_stages_of_the_shipped_models_training_follow_each_other(data, tmp_path):
    def run(script: str, output: str, *arguments: str) -> None:
        command = [sys.executable, str(SCRIPT.with_name(script)), "--output_path", str(tmp_path / output), *arguments]
        assert subprocess.run(command).returncode == 0

    tiny = SCRIPT.parents[2] / "configs/ovis2_5/tiny_easyvqa"
    few = ["--steps", "2", "--batch_size", "4"]
    run("ovis_vocabulary.py", "vocabulary")
    words = str(tmp_path / "vocabulary")
    run("make_tiny.py", "fresh", "--model", "ovis2_5", "--config", str(tiny), "--vocabulary", words)
    run("pretrain_ovis.py", "seeing", "--model", str(tmp_path / "fresh"), *few)
    run("train_ovis_language.py", "telling", "--model", str(tmp_path / "seeing"), "--data", str(data), *few)
    stages = [load_file(tmp_path / stage / "model.safetensors") for stage in ("fresh", "seeing", "telling")]
    for before, after in zip(stages, stages[1:]):
        changed = {name for name, values in after.items() if not np.array_equal(values, before[name])}
        assert any(name.startswith("visual_tokenizer.vit") for name in changed) and "vte.weight" in changed
        assert any(name.startswith("llm") for name in changed) == (after is stages[-1])
