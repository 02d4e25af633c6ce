"""The metrics that a data set may ask for, by name."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Sequence
from statistics import median
from typing import Any

from ms_impl.data.boxes import BoxStyle
from ms_impl.errors import InputError
from ms_impl.evaluate import caption, grounding, speech, vqa
from ms_impl.evaluate.grounding import Target
from ms_impl.evaluate.questions import Question

Figures = dict[str, float]


class Metric(ABC):
    """How a data set's answers are scored. An answer is the model's text, unless ``weighs_choices``.

    ``boxes`` is how the model writes boxes; None where it writes none.
    """

    weighs_choices = False  # the model is not asked for an answer, but how likely it finds each of the choices

    def __init__(self, boxes: BoxStyle | None = None):
        self.boxes = boxes

    @abstractmethod
    def check(self, question: Question) -> None:
        """Raise InputError for a record that cannot be scored."""

    def check_all(self, questions: Sequence[Question]) -> None:  # noqa: B027
        """As ``check``, for what is found out of all records at once. Raises InputError that names the record."""

    @abstractmethod
    def scores(self, questions: Sequence[Question], answers: Sequence[Any]) -> list[float]:
        """The score of each record; 1 is wholly right (CIDEr goes up to 10)."""

    @abstractmethod
    def summary(self, questions: Sequence[Question], answers: Sequence[Any], scores: Sequence[float]) -> Figures:
        """The figures of the whole data set, by name."""

    def is_answer(self, question: Question, answer: Any) -> bool:
        """Whether an answer that was read from a file is of the kind that this metric scores."""
        return isinstance(answer, str)

    def details(self, question: Question, answer: Any) -> dict[str, Any]:
        """What a record's line of the results says beside question, references and score."""
        return {"answer": answer}


class VQA(Metric):
    """``vqa``: the soft accuracy of VQA against several people's ``answers`` (usually ten)."""

    def check(self, question: Question) -> None:
        if len(question.references) <= vqa.FULL_MARKS:
            raise InputError(
                f"metric vqa needs the answers of more than {vqa.FULL_MARKS} people in 'answers', found "
                f"{len(question.references)}; for one right answer there is the metric exact_match"
            )

    def scores(self, questions: Sequence[Question], answers: Sequence[str]) -> list[float]:
        return [vqa.soft_accuracy(answer, q.references) for q, answer in zip(questions, answers, strict=True)]

    def summary(self, questions: Sequence[Question], answers: Sequence[Any], scores: Sequence[float]) -> Figures:
        return {"accuracy": _mean(scores)}


class ExactMatch(Metric):
    """``exact_match``: equal to a reference but for case; ``majority`` is what the commonest reference would get."""

    def check(self, question: Question) -> None:
        _require_references(question)

    def scores(self, questions: Sequence[Question], answers: Sequence[str]) -> list[float]:
        return [vqa.exact_match(answer, q.references) for q, answer in zip(questions, answers, strict=True)]

    def summary(self, questions: Sequence[Question], answers: Sequence[Any], scores: Sequence[float]) -> Figures:
        commonest = Counter(reference for q in questions for reference in set(q.references)).most_common(1)[0][1]
        return {"accuracy": _mean(scores), "majority": commonest / len(questions)}


class Cider(Metric):
    """``cider``: captions against one or more references."""

    def check(self, question: Question) -> None:
        _require_references(question)

    def check_all(self, questions: Sequence[Question]) -> None:
        owners = [question for question in questions for _ in question.references]
        found = caption.tokenized([reference for question in questions for reference in question.references])
        if wordless := [question for question, words in zip(owners, found, strict=True) if not words]:
            raise InputError(f"{wordless[0].record}: a reference has no words")

    def scores(self, questions: Sequence[Question], answers: Sequence[str]) -> list[float]:
        return caption.cider(answers, [question.references for question in questions])

    def summary(self, questions: Sequence[Question], answers: Sequence[Any], scores: Sequence[float]) -> Figures:
        return {"cider": _mean(scores)}


class Grounding(Metric):
    """``grounding``: the first box of the answer against ``bbox``, or else the first one of the reference."""

    def check(self, question: Question) -> None:
        if self._target(question, self._style()) is None:
            raise InputError("metric grounding needs a box: in the last assistant turn, or as 'bbox' in pixels")

    def scores(self, questions: Sequence[Question], answers: Sequence[str]) -> list[float]:
        style = self._style()
        targets = [self._target(question, style) for question in questions]  # checked before: each has one
        return [grounding.box_iou(answer, t, style) for t, answer in zip(targets, answers, strict=True) if t]

    def summary(self, questions: Sequence[Question], answers: Sequence[Any], scores: Sequence[float]) -> Figures:
        return {"mean_iou": _mean(scores), "iou_0.5": _mean([score >= grounding.HIT for score in scores])}

    def _style(self) -> BoxStyle:
        if self.boxes is None:
            raise InputError("metric grounding: this model writes no boxes")
        return self.boxes

    def _target(self, question: Question, style: BoxStyle) -> Target | None:
        given = question.references[0] if question.references else ""
        return question.target or grounding.text_target(given, style)


class WordErrorRate(Metric):
    """``wer``: what was heard against what was said; the score of a record is its error rate, 0 where all is right.

    ``wer`` and ``cer`` are those of the whole data set: errors in words and in characters over those of the references.
    """

    def check(self, question: Question) -> None:
        _require_references(question)
        if not speech.words(question.references[0]):
            raise InputError("metric wer: the reference has no words")

    def scores(self, questions: Sequence[Question], answers: Sequence[str]) -> list[float]:
        return [speech.error_rate([q.references[0]], [answer]) for q, answer in zip(questions, answers, strict=True)]

    def summary(self, questions: Sequence[Question], answers: Sequence[Any], scores: Sequence[float]) -> Figures:
        references = [question.references[0] for question in questions]
        return {
            "wer": speech.error_rate(references, answers),
            "cer": speech.error_rate(references, answers, of_characters=True),
        }


class Seconds(Metric):
    """``seconds``: the first number of the answer against that of the reference; the score is how far it is off.

    An answer without a number is as far off as the reference is from 0. ``median_error`` and ``mean_error`` are in the
    reference's unit; ``within_2`` is the share that is off by 2 at most.
    """

    def check(self, question: Question) -> None:
        _require_references(question)
        if _first_number(question.references[0]) is None:
            raise InputError("metric seconds: the reference has no number")

    def scores(self, questions: Sequence[Question], answers: Sequence[str]) -> list[float]:
        right = [_first_number(question.references[0]) or 0.0 for question in questions]
        return [abs((_first_number(answer) or 0.0) - number) for number, answer in zip(right, answers, strict=True)]

    def summary(self, questions: Sequence[Question], answers: Sequence[Any], scores: Sequence[float]) -> Figures:
        near = [score <= 2 for score in scores]
        return {"median_error": median(scores), "mean_error": _mean(scores), "within_2": _mean(near)}


class MultipleChoice(Metric):
    """``multiple_choice``: whether the model finds the right choice the likeliest.

    An answer is a list of (log-probability summed over tokens, number of tokens) for each choice. The score takes the
    sums; ``accuracy_per_token`` their means over the tokens, as ``eval_mm`` does (which asks for letters, one token
    each, so that the two are the same there).
    """

    weighs_choices = True

    def check(self, question: Question) -> None:
        _require_references(question)
        right = question.references[0]
        if len(set(question.choices)) < 2 or right not in question.choices:
            raise InputError(f"metric multiple_choice needs two 'choices' at least, the answer {right!r} among them")
        if "" in question.choices:
            raise InputError("an empty text is among the choices")

    def scores(self, questions: Sequence[Question], answers: Sequence[Any]) -> list[float]:
        likeliest = [_likeliest(q, [weight for weight, _ in a]) for q, a in zip(questions, answers, strict=True)]
        return [float(choice == q.references[0]) for q, choice in zip(questions, likeliest)]

    def summary(self, questions: Sequence[Question], answers: Sequence[Any], scores: Sequence[float]) -> Figures:
        likeliest = [_likeliest(q, [weight / tokens for weight, tokens in a]) for q, a in zip(questions, answers)]
        per_token = _mean([choice == q.references[0] for q, choice in zip(questions, likeliest)])
        return {"accuracy": _mean(scores), "accuracy_per_token": per_token}

    def is_answer(self, question: Question, answer: Any) -> bool:
        pairs = answer if isinstance(answer, list) else []
        kinds = all(
            isinstance(p, list) and len(p) == 2 and isinstance(p[0], float) and type(p[1]) is int for p in pairs
        )
        return kinds and len(pairs) == len(question.choices) and all(tokens > 0 for _, tokens in pairs)

    def details(self, question: Question, answer: Any) -> dict[str, Any]:
        weights = [weight for weight, _ in answer]
        return {"answer": _likeliest(question, weights), "choices": question.choices, "log_probabilities": weights}


METRICS: dict[str, type[Metric]] = {
    "vqa": VQA,
    "exact_match": ExactMatch,
    "cider": Cider,
    "grounding": Grounding,
    "multiple_choice": MultipleChoice,
    "wer": WordErrorRate,
    "seconds": Seconds,
}


def _likeliest(question: Question, weights: Sequence[float]) -> str:
    return question.choices[max(range(len(weights)), key=weights.__getitem__)]


def _require_references(question: Question) -> None:
    if not question.references:
        raise InputError("there is no right answer: neither a last assistant turn nor 'answers'")


def _first_number(text: str) -> float | None:
    found = re.search(r"\d+(\.\d+)?", text)
    return float(found[0]) if found else None


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
