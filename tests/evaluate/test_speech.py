"""Error rates of what was heard, against counts made by hand."""

import pytest

from ms_impl.errors import InputError
from ms_impl.evaluate.metrics import METRICS
from ms_impl.evaluate.questions import Question
from ms_impl.evaluate.speech import error_rate, words


def question(*references):
    return Question("record 0", 0, "What is said?", (), references)


def test_words_are_lower_case_without_marks():
    assert words("It’s  a DOG, isn't it? (2 ｄogs…) 你好。") == ["it's", "a", "dog", "isn't", "it", "2", "dogs", "你好"]


@pytest.mark.parametrize(
    ("said", "heard", "wer"),
    [
        ("the cat sat", "The cat sat!", 0),
        ("the cat sat on", "the dog sat", 0.5),  # one other, one missing
        ("the cat", "", 1),
        ("cat", "a cat is a", 3),
    ],
)
def test_word_errors(said, heard, wer):
    assert error_rate([said], [heard]) == pytest.approx(wer)


def test_characters_stand_for_words_in_chinese():
    assert error_rate(["今天天气很好"], ["今天天汽好"], of_characters=True) == pytest.approx(2 / 6)
    assert error_rate(["a b"], ["ab"], of_characters=True) == 0


def test_the_whole_data_set_weighs_records_by_their_words():
    metric, questions = METRICS["wer"](), [question("one two three four"), question("five")]
    for each in questions:
        metric.check(each)
    answers = ["one two three four", "six"]
    assert metric.scores(questions, answers) == [0, 1]
    assert metric.summary(questions, answers, [0, 1]) == {"wer": pytest.approx(0.2), "cer": pytest.approx(3 / 19)}


@pytest.mark.parametrize("references", [(), ("…",)])
def test_a_record_that_cannot_be_scored_is_refused(references):
    with pytest.raises(InputError, match="no right answer|no words"):
        METRICS["wer"]().check(question(*references))
