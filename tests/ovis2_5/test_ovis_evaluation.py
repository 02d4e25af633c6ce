"""Evaluation and prediction with Ovis2.5: the thinking is apart and not scored; boxes are parts of the image's sides."""

import json
from dataclasses import replace

import pytest

from ms_impl.data.thinking import split_thinking
from ms_impl.evaluate.data_set import DataSet
from ms_impl.evaluate.evaluation import Evaluation, run
from ms_impl.evaluate.grounding import box_iou, text_target
from ms_impl.ovis2_5.boxes import BOXES

THINKING = {"enable_thinking": True, "enable_thinking_budget": True, "thinking_budget": 4, "max_new_tokens": 36}


@pytest.fixture(scope="module")
def thought(loaded, small, image_query) -> tuple[str, str]:
    """The thinking and the answer to the question of ``image_query``."""
    answer, _ = loaded[0].chat(small, image_query, **THINKING)
    return split_thinking(answer, small.think_end)


@pytest.fixture
def evaluated(loaded, small, ovis_folder, tmp_path):
    """Put records about an image to the model; the scores and the lines of the results."""

    def evaluated(metric: str, answer: str, question: str = "What is it?", **settings):
        turns = [{"from": "human", "value": f"<image>\n{question}"}, {"from": "gpt", "value": answer}]
        (tmp_path / "records.json").write_text(json.dumps([{"image": "image0.png", "conversations": turns}]))
        data = DataSet("asked", tmp_path / "records.json", metric, 1, None, None, {"dataset_dir": str(ovis_folder)})
        evaluation = Evaluation(data, small, loaded[0].generation.changed(**settings))
        (result,) = run([evaluation], loaded[0], "weights", tmp_path)
        return result.scores, [json.loads(line) for line in (tmp_path / "asked.jsonl").read_text().splitlines()]

    return evaluated


def test_v12_what_is_thought_is_not_scored(evaluated, thought):
    thinking, answer = thought
    assert thinking and answer
    scores, (line,) = evaluated("exact_match", answer, **THINKING)
    assert scores["accuracy"] == 1
    assert (line["thinking"], line["answer"], line["score"]) == (thinking, answer, 1)
    assert evaluated("exact_match", f"{thinking}\n\nno", **THINKING)[0]["accuracy"] == 0


def test_without_thinking_there_is_none(evaluated):
    _, (line,) = evaluated("exact_match", "no", max_new_tokens=3)
    assert "thinking" not in line and line["answer"]


def test_v15_boxes_are_scored_in_parts_of_the_sides(evaluated):
    target = text_target("<ref>it</ref><box>(0.2,0.2),(0.6,0.6)</box>", BOXES)
    assert box_iou("<box>(0.2,0.2),(0.6,0.6)</box>", target, BOXES) == 1
    assert box_iou("It is <box>(0.4,0.2),(0.8,0.6)</box>.", target, BOXES) == pytest.approx(1 / 3, abs=1e-6)
    assert box_iou("<box>(200,200),(600,600)</box>", target, BOXES) == 0
    in_pixels = replace(target, box=(20.0, 10.0, 60.0, 30.0), size=(100, 50))
    assert box_iou("<box>(0.4,0.2),(0.8,0.6)</box>", in_pixels, BOXES) == pytest.approx(1 / 3, abs=1e-6)
    scores, _ = evaluated("grounding", "<box>(0.2,0.2),(0.6,0.6)</box>", max_new_tokens=3)
    assert scores == {"mean_iou": 0, "iou_0.5": 0}


def test_a_predictions_thinking_is_apart(loaded, small, image_query, thought, tmp_path):
    from ms_impl.plugin.predict import answered, save_answers

    answers = list(answered(loaded[0], small, [image_query], loaded[0].generation.changed(**THINKING), 1, None))
    save_answers(answers, tmp_path / "predict.jsonl")
    line = json.loads((tmp_path / "predict.jsonl").read_text())
    assert list(line) == ["id", "prompt", "thinking", "answer", "prompt_ids", "answer_ids"]
    assert (line["thinking"], line["answer"]) == thought
