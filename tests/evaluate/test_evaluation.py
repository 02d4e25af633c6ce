"""A data set put to the shipped model: answers, scores, files; cut off and gone on with; what is refused at once."""

import dataclasses
import json
import shutil
import unicodedata
from pathlib import Path

import pytest

from ms_impl.errors import InputError
from ms_impl.evaluate.evaluation import Evaluation, run
from ms_impl.generate.mixin import GenerationMixin

WEIGHTS = "digest of the weights"


@pytest.fixture
def evaluate(shipped, tmp_path):
    """Run a data set; returns the result of it and the lines of its file."""
    model, template = shipped

    def evaluate(data, weights=WEIGHTS):
        (result,) = run([Evaluation(data, template, model.generation)], model, weights, tmp_path / "eval")
        lines = (tmp_path / "eval/asked.jsonl").read_text(encoding="utf-8").splitlines()
        return result, [json.loads(line) for line in lines]

    return evaluate


@pytest.fixture
def asked(monkeypatch) -> list[int]:
    """The number of questions of each batch that is generated."""
    sizes, generate = [], GenerationMixin.generate

    def counted(self, template, samples, *arguments, **settings):
        sizes.append(len(samples))
        return generate(self, template, samples, *arguments, **settings)

    monkeypatch.setattr(GenerationMixin, "generate", counted)
    return sizes


def test_every_record_is_answered_once_in_order_and_scored(evaluate, shipped, data_set, records, tmp_path):
    result, lines = evaluate(data_set())
    assert [line["id"] for line in lines] == ["r0", "r1", "r2", "r3", "r4"]
    model, template = shipped
    for line, (_, _, right) in zip(lines, records):
        expected, _ = model.chat(
            template, line["question"], do_sample=False, dataset_dir=data_set().options["dataset_dir"]
        )
        assert line["answer"] == expected and line["references"] == [right]
        assert line["score"] == float(expected == right)
    assert result.records == 5 and result.scores["accuracy"] == sum(line["score"] for line in lines) / 5
    saved = json.loads((tmp_path / "eval/scores.json").read_text())
    assert saved == {"asked": {"metric": "exact_match", "records": 5, **result.scores}}


def test_a_run_that_was_cut_off_asks_only_what_is_left(evaluate, data_set, asked, tmp_path):
    whole = evaluate(data_set())
    assert asked == [2, 2, 1]
    log = tmp_path / "eval/answers/asked/rank_0.jsonl"
    log.write_bytes(log.read_bytes()[:-3])
    assert evaluate(data_set()) == whole and asked == [2, 2, 1, 1]
    assert evaluate(data_set()) == whole and asked == [2, 2, 1, 1]


@pytest.mark.parametrize("change", ["weights", "data", "settings"])
def test_answers_of_other_weights_data_or_settings_are_not_taken(evaluate, data_set, records, asked, change):
    evaluate(data_set())
    other = [*records[:4], ("3.png", "what shape is it?", "circle")]
    data = data_set(records=other if change == "data" else records)
    data = dataclasses.replace(data, max_new_tokens=7) if change == "settings" else data
    evaluate(data, "other weights" if change == "weights" else WEIGHTS)
    assert asked == [2, 2, 1] * 2


def test_another_metric_takes_the_answers_that_are_there(evaluate, data_set, asked):
    evaluate(data_set(answers=["red", "red", "no", "yes"]))
    result, _ = evaluate(dataclasses.replace(data_set(answers=["red", "red", "no", "yes"]), metric="vqa"))
    assert asked == [2, 2, 1] and result.metric == "vqa"


def test_multiple_choice_asks_for_no_answer(evaluate, data_set, asked):
    records = [("7.png", "what color is the shape?", "green"), ("7.png", "what shape is present?", "circle")]
    result, lines = evaluate(data_set("multiple_choice", records, choices=["red", "circle", "green", "no"]))
    assert asked == [] and result.scores == {"accuracy": 1.0, "accuracy_per_token": 1.0}
    assert [line["answer"] for line in lines] == ["green", "circle"] and len(lines[0]["log_probabilities"]) == 4


def test_num_samples_asks_the_first_so_many(evaluate, data_set):
    assert [line["id"] for line in evaluate(data_set(num_samples=3))[1]] == ["r0", "r1", "r2"]


@pytest.mark.parametrize(
    ("metric", "last", "message"),
    [
        ("exact_match", ("no.png", "what?", "x"), "image '.*no.png' does not exist"),
        ("exact_match", (None, "what? " * 2000, "x"), "tokens"),
        ("exact_match", (None, "<img>7.png", "x"), "Unclosed image token"),
        ("grounding", ("7.png", "where?", "here"), "metric grounding needs a box"),
    ],
)
def test_a_broken_record_is_named_before_anything_is_asked(shipped, data_set, records, asked, metric, last, message):
    boxed = [(image, question, "<box>(1,2),(3,4)</box>") for image, question, _ in records]
    with pytest.raises(InputError, match=rf"records.json: record 5 \(id 'r5'\): .*{message}"):
        Evaluation(data_set(metric, [*boxed, last]), shipped[1], shipped[0].generation)
    assert asked == []


def test_a_damaged_image_is_found_before_anything_is_asked(shipped, data_set, tmp_path):
    data = data_set(records=[("cut.png", "what?", "x")])
    whole = (Path(data.options["dataset_dir"]) / "7.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="record 0 .*cannot be decoded"):
        Evaluation(dataclasses.replace(data, options={"dataset_dir": str(tmp_path)}), shipped[1], shipped[0].generation)


@pytest.mark.parametrize("written", ["NFC", "NFD"])
@pytest.mark.parametrize("stored", ["NFC", "NFD"])
def test_images_are_checked_and_shown_under_one_name(evaluate, data_set, tmp_path, written, stored):
    """The check read the path as written, the run in NFC: one passed what the other refused."""
    name = "café 100%25.png"
    shutil.copy(f"{data_set().options['dataset_dir']}/7.png", tmp_path / unicodedata.normalize(stored, name))
    data = data_set(records=[(unicodedata.normalize(written, name), "what shape is present?", "circle")])
    result, _ = evaluate(dataclasses.replace(data, options={"dataset_dir": str(tmp_path)}))
    assert result.records == 1


def test_a_records_own_system_message_is_used(evaluate, shipped, data_set):
    data = data_set(system="Be brief.")
    _, template = shipped
    evaluation = Evaluation(data, template, shipped[0].generation)
    ids = evaluation._sample(evaluation.questions[0]).input_ids
    assert "system\nBe brief." in template.tokenizer.decode(ids)


@pytest.mark.parametrize("fields", [{"id": "\ud83d"}, {"answers": ["red", "\udc00"]}, {"id": {"a": ["\ud83d"]}}, {}])
def test_half_a_surrogate_pair_is_found_before_anything_is_asked(shipped, data_set, records, asked, fields):
    """It can be read, but neither asked nor written: all answers would be lost at the end."""
    question = "what?" if fields else "what is \udfff?"
    with pytest.raises(InputError, match="records.json: record 0.*half a surrogate pair"):
        Evaluation(data_set(records=[("7.png", question, "x")], **fields), shipped[1], shipped[0].generation)
    assert asked == []


def test_whole_characters_of_any_kind_are_asked_and_written(evaluate, data_set):
    odd = "\U0001f600 \u2028 \x00 \x85 \ufffd"
    _, lines = evaluate(data_set(records=[("7.png", f"what {odd}?", odd)], id=odd))
    assert [(line["id"], line["references"]) for line in lines] == [(odd, [odd])] and odd in lines[0]["question"]


def test_results_that_cannot_be_written_are_found_before_anything_is_asked(evaluate, data_set, asked, tmp_path):
    (tmp_path / "eval/asked.jsonl").mkdir(parents=True)
    with pytest.raises(InputError, match="asked.jsonl: is a directory"):
        evaluate(data_set())
    assert asked == []


@pytest.mark.parametrize("answers", [["x"], ["x", 1], ["x", None], ["x", [[-1.0, 2]]]])
def test_a_log_with_answers_of_another_kind_names_its_line(evaluate, data_set, asked, tmp_path, answers):
    evaluate(data_set())
    log = tmp_path / "eval/answers/asked/rank_0.jsonl"
    lines = log.read_text().splitlines(keepends=True)
    log.write_text("".join([*lines[:2], json.dumps({"batch": 1, "answers": answers}) + "\n", *lines[3:]]))
    with pytest.raises(InputError, match="rank_0.jsonl: line 3: it does not hold the answers"):
        evaluate(data_set())
    assert asked == [2, 2, 1]
