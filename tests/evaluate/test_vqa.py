"""Short answers: normalisation and accuracy, against values worked out by hand from the official rules."""

import pytest

from ms_impl.evaluate.vqa import exact_match, normalise, soft_accuracy


@pytest.mark.parametrize(
    ("answer", "normal"),
    [
        ("The man", "man"),
        ("two Dogs", "2 dogs"),
        ("none", "0"),
        ("eleven", "eleven"),
        ("dont know", "don't know"),
        ("couldntve", "couldntve"),  # one apostrophe may be missing, not two
        ("couldnt've", "couldn't've"),
        ("Somebody'd somebodyd", "somebodyd somebodyd"),  # the original's table has this one turned round
        ("twas wed", "'twas wed"),  # a word of its own stays
        ("its the cat's", "its cat's"),
        ("black-and-white", "black and white"),
        ("yes!", "yes"),
        ("red , blue", "red blue"),
        ("red,blue", "red blue"),
        ("1,000", "1000"),
        ("1,000 half-full", "1000 halffull"),  # a comma between digits makes all marks vanish
        ("4.5 ft.", "4.5 ft"),
        ("10:30", "10:30"),
        ("a\nb\tc", "b c"),
    ],
)
def test_normalisation(answer, normal):
    assert normalise(answer) == normal


@pytest.mark.parametrize(("agreeing", "accuracy"), [(0, 0.0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1.0), (10, 1.0)])
def test_soft_accuracy_by_how_many_of_ten_agree(agreeing, accuracy):
    """3 of 10: leaving out one of the three counts 2/3, one of the others 1; (3 · 2/3 + 7) / 10 = 0.9."""
    people = ["yes"] * agreeing + ["no"] * (10 - agreeing)
    assert soft_accuracy("Yes.", people) == pytest.approx(accuracy)


def test_peoples_answers_lose_their_punctuation_only_where_they_differ():
    assert soft_accuracy("stop sign", ["stop-sign"] * 9 + ["sign"]) == 1.0
    assert soft_accuracy("stop sign", ["stop-sign"] * 10) == 0.0


def test_exact_match_takes_any_reference_whatever_its_case():
    assert exact_match(" Red\n", ["blue", "red"]) == 1.0
    assert exact_match("red", ["dark red"]) == 0.0
