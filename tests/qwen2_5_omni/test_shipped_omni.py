"""The shipped small Omni: what it sees and hears, and when; and what it tells without true time."""

import json
import random
import re
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[2] / "scripts/small_models"))
import omni_data

from ms_impl import load
from ms_impl.data.batch import collate
from ms_impl.data.records import parse_record
from ms_impl.generate.text import answer_text
from ms_impl.qwen2_5_omni.template import Qwen2_5OmniTemplate

ROOT = Path(__file__).parents[2]
SHIPPED = ROOT / "assets/qwen2_5_omni_tiny"
WORDS, FILM, CLIPS = (7, 10), 5, (8, 22)  # of the test split; the clips last some 56 s
FILES = {"words": "flac", "clips": "mp4"}
FIGURES = {"questions": 0.85, "words": 0.9}


@pytest.fixture(scope="module")
def shipped():
    """Model and template."""
    return load(SHIPPED)


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    """Where the files are, and a few records of the test split: images, words, a clip with sound, long clips."""
    root = tmp_path_factory.mktemp("shown")
    for kind in FILES:
        (root / kind / "test").mkdir(parents=True)
    records = omni_data.questions(root, "test", 3, random.Random(1))
    records += [omni_data.word(root, "test", number, 0) for number in WORDS]
    records += [omni_data.clip(root, "test", number, 0) for number in (FILM, *CLIPS)]
    return root, records


def answers(shipped, root, records, **options) -> list[str]:
    """What the model says to the records' questions, all in one batch."""
    model, template = shipped
    told = template.with_options(dataset_dir=str(root), **options)
    dialogues = [told.dialogue(parse_record(record, "x")) for record in records]
    samples = [told.encode_turn(each.turns[0][0], None, None, dataset_dir=str(root)) for each in dialogues]
    tokens = model.generate(told, samples, model.generation.changed(max_new_tokens=6))
    return [answer_text(each, [], told.tokenizer.decode).replace("<|im_end|>", "").strip() for each in tokens]


def test_a_handful_is_answered_rightly(shipped, shown):
    root, records = shown
    right = [record["messages"][1]["content"] for record in records]
    told = answers(shipped, root, records)
    assert told[:5] == right[:5]
    assert all(abs(int(a) - int(b)) <= 2 for a, b in zip(told[5:], right[5:]))


def test_a_long_clip_without_true_time_is_told_wrongly(shipped, shown):
    """Its event at some second past 20 is told as if the clip lasted half a minute."""
    root, records = shown
    told = answers(shipped, root, records[-2:], second_per_grid="fixed")
    for answer, record in zip(told, records[-2:]):
        assert abs(int(answer) - int(record["messages"][1]["content"])) > 5


@pytest.mark.slow
def test_transformers_loads_it_and_answers_the_same(shown):
    """Its own classes read weights, vocabulary and chat template; the first token of an answer about an image."""
    import torch
    from transformers import AutoTokenizer, Qwen2_5OmniThinkerForConditionalGeneration

    root, records = shown
    template = Qwen2_5OmniTemplate.from_pretrained(SHIPPED, dataset_dir=str(root))
    sample = template.sample(parse_record(records[0], "x"))
    arrays = collate([sample], template)
    end = int((sample.labels >= 0).argmax())
    tokenizer = AutoTokenizer.from_pretrained(SHIPPED)
    tokenizer.chat_template = json.loads((SHIPPED / "chat_template.json").read_text())["chat_template"]
    question = records[0]["messages"][0]["content"].removeprefix("<image>")
    content = [{"type": "image"}, {"type": "text", "text": question}]
    told = tokenizer.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    image = template.config.image_token_index
    once = [id for id, before in zip(sample.input_ids, [0, *sample.input_ids]) if id != image or before != image]
    assert told == once[: len(told)] and len(told) == end - (sample.input_ids == image).sum() + 1
    model = Qwen2_5OmniThinkerForConditionalGeneration.from_pretrained(SHIPPED, dtype=torch.float32).eval()
    ((_, rows, columns, _),) = (medium.geometry for medium in sample.media)
    with torch.no_grad():
        logits = model(
            input_ids=torch.from_numpy(sample.input_ids[None, :end]).long(),
            attention_mask=torch.ones(1, end, dtype=torch.long),
            pixel_values=torch.from_numpy(arrays["patches"][0, 0, : rows * columns]),
            image_grid_thw=torch.tensor([[1, rows, columns]]),
        ).logits
    assert tokenizer.decode(logits[0, -1].argmax()) == records[0]["messages"][1]["content"]


@pytest.mark.slow
def test_the_figures_of_the_readme(tmp_path):
    """Some minutes: data are made, and the test split is asked."""
    data, output = tmp_path / "data", tmp_path / "evaluation"
    make = [sys.executable, "scripts/small_models/omni_data.py", "--output_path", str(data)]
    counts = ["--questions", "1", "1000", "--words", "1", "300", "--clips", "1", "300"]
    subprocess.run([*make, *counts], cwd=ROOT, check=True)
    command = ["bash", "scripts/small_models/evaluate_omni.sh", str(SHIPPED), str(data), str(output)]
    subprocess.run(command, cwd=ROOT, check=True)
    (scores,) = output.rglob("scores.json")
    found = json.loads(scores.read_text())
    for name, least in FIGURES.items():
        assert found[name]["accuracy"] >= least
    assert found["clips"]["median_error"] <= 1.5
    wrong = found["long_clips_without_true_time"]["median_error"]
    assert wrong >= 2 * found["long_clips"]["median_error"] and wrong > 1.5
    readme = (SHIPPED / "README.md").read_text(encoding="utf-8")
    printed = dict(re.findall(r"^(\w+) +(?:exact_match|seconds) +[\d,]+ +(.*)$", readme, re.MULTILINE))
    for name, scores in found.items():
        for figure in re.findall(r"(\w+) ([\d.]+)", printed[name]):
            assert scores[figure[0]] == pytest.approx(float(figure[1]), abs=0.01 + 0.1 * (name[-5:] == "clips"))
