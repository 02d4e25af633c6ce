"""The table of metrics: what each demands of a record, and what it says of a data set."""

import pytest

from ms_impl.errors import InputError
from ms_impl.evaluate.grounding import Target
from ms_impl.evaluate.metrics import METRICS
from ms_impl.evaluate.questions import Question
from ms_impl.qwenvl.boxes import BOXES


def question(*references, **fields) -> Question:
    return Question("record 0", 0, "What?", (), references, **fields)


def evaluate(name, questions, answers) -> dict[str, float]:
    metric = METRICS[name](BOXES)
    for each in questions:
        metric.check(each)
    return metric.summary(questions, answers, metric.scores(questions, answers))


def test_vqa_is_the_mean_soft_accuracy():
    questions = [question(*["yes"] * 3, *["no"] * 7), question(*["2"] * 10)]
    assert evaluate("vqa", questions, ["yes", "two"]) == {"accuracy": pytest.approx(0.95)}


def test_exact_match_stands_beside_the_commonest_answer():
    questions = [question("yes"), question("yes"), question("red"), question("no")]
    assert evaluate("exact_match", questions, ["no", "yes", "Red", "yes"]) == {"accuracy": 0.5, "majority": 0.5}


def test_cider_is_the_mean_over_captions():
    assert evaluate("cider", [question("red"), question("blue")], ["red", "red"]) == {"cider": pytest.approx(1.25)}


def test_grounding_takes_the_box_of_the_reference_or_bbox():
    target = Target((0.0, 0.0, 400.0, 400.0), (999, 999))
    questions = [question("<box>(0,0),(400,400)</box>"), question(target=target), question("(0,0),(9,9)")]
    answers = ["<box>(0,0),(200,400)</box>", "<box>(0,0),(400,100)</box>", "nowhere"]
    assert evaluate("grounding", questions, answers) == {"mean_iou": 0.25, "iou_0.5": pytest.approx(1 / 3)}


def test_multiple_choice_by_sums_and_per_token():
    questions = [question("no", choices=("yes", "no")), question("b", choices=("a", "b"))]
    answers = [[(-1.0, 1), (-1.5, 3)], [(-4.0, 1), (-2.0, 1)]]
    assert evaluate("multiple_choice", questions, answers) == {"accuracy": 0.5, "accuracy_per_token": 1.0}
    details = METRICS["multiple_choice"]().details(questions[0], answers[0])
    assert details == {"answer": "yes", "choices": ("yes", "no"), "log_probabilities": [-1.0, -1.5]}


def test_seconds_are_off_by_the_first_number():
    questions = [question("7"), question("12.5"), question("At 40 s.")]
    answers = ["At second 07.", "11", "never"]
    figures = {"median_error": 1.5, "mean_error": pytest.approx(41.5 / 3), "within_2": pytest.approx(2 / 3)}
    assert evaluate("seconds", questions, answers) == figures


@pytest.mark.parametrize(
    ("name", "record", "message"),
    [
        ("vqa", question("yes", "no", "yes"), "needs the answers of more than 3 people in 'answers', found 3"),
        ("exact_match", question(), "there is no right answer"),
        ("cider", question(), "there is no right answer"),
        ("grounding", question("there"), "metric grounding needs a box"),
        ("grounding", question("<box>(9,9),(1,1)</box>"), "the right box is reversed, empty or outside the image"),
        ("grounding", question("<box>(1,9),(1,20)</box>"), "the right box is reversed, empty or outside the image"),
        ("grounding", question("<box>(1,1),(9,nan)</box>"), "the right box is reversed, empty or outside the image"),
        ("grounding", question("<box>(1200,1),(1300,9)</box>"), "the right box is reversed, empty or outside"),
        ("seconds", question("soon"), "the reference has no number"),
        ("multiple_choice", question("a", choices=("b", "c")), "the answer 'a' among them"),
        ("multiple_choice", question("a", choices=("a", "a")), "needs two 'choices' at least"),
        ("multiple_choice", question("a", choices=("a", "")), "an empty text is among the choices"),
    ],
)
def test_a_record_that_cannot_be_scored_is_refused(name, record, message):
    with pytest.raises(InputError, match=message):
        METRICS[name](BOXES).check(record)


def test_a_reference_without_words_is_refused_by_record():
    """Found for all records by one start of the tokenizer."""
    questions = [question("a cat"), Question("record 7", 7, "What?", (), ("a dog", "“...”")), question("-")]
    with pytest.raises(InputError, match="record 7: a reference has no words"):
        METRICS["cider"]().check_all(questions)
