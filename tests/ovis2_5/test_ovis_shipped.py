"""The shipped small model: it answers, boxes and counts, and a budget is seen to cut its thinking."""

import json
import re
import subprocess
import sys
from pathlib import Path

import easy_vqa
import pytest
from PIL import Image

from ms_impl.data.batch import collate
from ms_impl.data.thinking import split_thinking
from ms_impl.errors import InputError
from ms_impl.evaluate.data_set import DataSet
from ms_impl.evaluate.evaluation import Evaluation, run
from ms_impl.ovis2_5.thinking import EARLY_STOP, THINK_END

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = ROOT / "assets/ovis2_5_tiny"
IMAGES = Path(easy_vqa.__file__).parent / "data/test/images"
sys.path.insert(0, str(ROOT / "scripts/small_models"))

from easyvqa_data import shape_box, shape_mask  # noqa: E402
from ovis_data import BOX_REQUEST, Shape, count_question, draw_scene, thought, with_thought  # noqa: E402

QUESTIONS = [
    ("0.png", (64, 64), "what color is the shape?", "red"),
    ("7.png", (128, 96), "what shape is present?", "circle"),
    ("7.png", (96, 64), "is there a triangle in this image?", "no"),
    ("3.png", (64, 128), "is a yellow shape present?", "yes"),
]
SCENE = [Shape(0, "red", "circle"), Shape(1, "blue", "triangle"), Shape(3, "red", "rectangle")]
HALF = 16  # tokens; the chain of thought of the scene has more than twice as many


@pytest.fixture(scope="module")
def shipped():
    """Model and template."""
    from ms_impl import load

    return load(SHIPPED)


@pytest.fixture(scope="module")
def ask(shipped):
    """Ask about an image; returns the thinking, if any, and the answer."""
    model, template = shipped

    def ask(image, question, **settings):
        answer, _ = model.chat(template, [{"image": image}, {"text": question}], **settings)
        return split_thinking(answer, THINK_END)

    return ask


@pytest.fixture(scope="module")
def scene():
    return Image.fromarray(draw_scene(SCENE, (128, 96), lambda: 0.15))


def test_questions_are_answered_at_several_sizes(ask):
    for name, size, question, right in QUESTIONS:
        image = Image.open(IMAGES / name).convert("RGB").resize(size, Image.Resampling.BICUBIC)
        assert ask(image, question) == ("", right), (name, size)


def test_a_box_is_found(ask):
    import numpy as np

    image = Image.open(IMAGES / "7.png").convert("RGB")
    _, answer = ask(image.resize((96, 128), Image.Resampling.BICUBIC), BOX_REQUEST.format(kind="circle"))
    assert re.fullmatch(r"<ref>the \w+ circle</ref><box>\((0\.\d+),(0\.\d+)\),\((0\.\d+),(0\.\d+)\)</box>", answer)
    right = np.array(shape_box(shape_mask(np.asarray(image)))) / 1000
    assert np.abs(np.array(re.findall(r"0\.\d+", answer), float) - right).max() < 0.1


def test_a_count_is_thought_over(ask, scene):
    chain, count = thought(SCENE, "red")
    assert ask(scene, count_question("red"), enable_thinking=True) == (f"<think>\n{chain}\n{THINK_END}", count)


def test_half_the_budget_cuts_the_thinking_and_the_answer_is_well_formed(ask, scene, shipped):
    budget = {"enable_thinking": True, "enable_thinking_budget": True, "thinking_budget": HALF}
    thinking, answer = ask(scene, count_question("red"), **budget)
    chain, count = thought(SCENE, "red")
    begun = thinking.removesuffix(EARLY_STOP.rstrip())
    assert begun != thinking and f"<think>\n{chain}".startswith(begun)
    assert len(shipped[1].tokenizer.encode(begun)) == HALF
    assert answer == count


@pytest.fixture
def asked(scene, tmp_path):
    """A data set of one count, with generation settings of its own."""

    def asked(**generation):
        scene.save(tmp_path / "scene.png")
        turns = (("human", f"<image>\n{count_question('red')}"), ("gpt", with_thought(*thought(SCENE, "red"))))
        said = [{"from": role, "value": text} for role, text in turns]
        records = [{"id": "k", "image": "scene.png", "conversations": said}]
        (tmp_path / "records.json").write_text(json.dumps(records))
        options = {"dataset_dir": str(tmp_path)}
        return DataSet("counts", tmp_path / "records.json", "exact_match", 1, 64, None, options, generation)

    return asked


def test_a_data_set_says_whether_and_how_long_its_answers_think(shipped, asked, tmp_path):
    model, template = shipped
    budget = {"enable_thinking_budget": True, "thinking_budget": HALF}
    figures = {}
    for name, generation in (("none", {}), ("all", {}), ("half", budget)):
        data = asked(**generation, enable_thinking=name != "none")
        (result,) = run([Evaluation(data, template, model.generation)], model, name, tmp_path / name)
        (line,) = map(json.loads, (tmp_path / name / "counts.jsonl").read_text().splitlines())
        assert line["references"] == ["2"] and ("Considering" in line.get("thinking", "")) == (name == "half")
        figures[name] = result.scores
    assert figures["all"] == figures["half"] == {"accuracy": 1.0, "majority": 1.0, "well_formed": 1.0}
    assert "well_formed" not in figures["none"]


def test_a_budget_that_leaves_no_answer_is_refused_before_the_model_runs(shipped, asked):
    data = asked(enable_thinking=True, enable_thinking_budget=True, thinking_budget=64)
    with pytest.raises(
        InputError, match=r"record 0 \(id 'k'\).*thinking_budget 64 leaves nothing of max_new_tokens 64"
    ):
        Evaluation(data, shipped[1], shipped[0].generation)


def test_the_answer_is_torchs_token_by_token(shipped, scene):
    import torch

    from torch_ref.ovis2_5.model import Ovis2_5

    model, template = shipped
    settings = model.generation.changed(enable_thinking=True, max_new_tokens=48)
    turn = template.encode_turn([{"image": scene}, {"text": count_question("red")}], None, None, settings)
    (found,) = model.generate(template, [turn], settings)
    arrays = {name: torch.from_numpy(array) for name, array in collate([turn], template).items()}
    visuals = [arrays[spec.name] for kind in template.kinds for spec in kind.all_arrays]
    tokens, _ = Ovis2_5.from_pretrained(SHIPPED).greedy(arrays["input_ids"], len(found), *visuals)
    assert list(found) == tokens[0].tolist() and len(found) > 3 * 12


def test_the_vocabulary_is_the_scripts(tmp_path):
    made = tmp_path / "vocabulary"
    command = [sys.executable, str(ROOT / "scripts/small_models/ovis_vocabulary.py"), "--output_path", str(made)]
    assert subprocess.run(command).returncode == 0
    for file in made.iterdir():
        assert file.read_bytes() == (SHIPPED / file.name).read_bytes()


@pytest.mark.slow
def test_the_figures_of_the_readme(tmp_path):
    data, output = tmp_path / "data", tmp_path / "evaluation"
    make = [sys.executable, str(ROOT / "scripts/small_models/ovis_data.py"), "--output_path", str(data)]
    assert subprocess.run([*make, "--images", "1", "300", "--scenes", "1", "300"]).returncode == 0
    changes = []
    for name in ("questions", "boxes", "counts", "counts_half_budget"):
        changes.append(f"eval_dataset.{name}.dataset_dir={data}")
        file = f"{data}/test_{name.removesuffix('_half_budget')}.json"
        changes.append(f"eval_dataset.{name}.data_loader.annotation_file={file}")
    config = ["--config", "configs/ovis2_5/eval_tiny.yaml", "--output_dir", str(output)]
    command = [sys.executable, "run_mindformer.py", *config, "--options", *changes]
    assert subprocess.run(command, cwd=ROOT).returncode == 0
    scores = json.loads((output / "eval/scores.json").read_text())
    for file in ("README.md", "README.zh-CN.md", "assets/ovis2_5_tiny/README.md"):
        told = (ROOT / file).read_text(encoding="utf-8")
        for name, result in scores.items():
            figures = {key: value for key, value in result.items() if isinstance(value, float)}
            line = ", ".join(f"{key} {value:.4f}" for key, value in figures.items())
            assert re.search(rf"^{name} .* {result['records']:,}  {re.escape(line)}$", told, re.MULTILINE), (file, line)
