"""A data set put to a model: all records checked, answered in batches by one rank or several, scored, written down."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ms_impl.data.files import RecordFile
from ms_impl.data.sample import Sample
from ms_impl.data.sample_reader import record_faults
from ms_impl.data.template import Template
from ms_impl.data.thinking import split_thinking
from ms_impl.errors import InputError
from ms_impl.evaluate.answer_log import AnswerLog
from ms_impl.evaluate.data_set import DataSet
from ms_impl.evaluate.likelihood import log_likelihoods
from ms_impl.evaluate.metrics import METRICS
from ms_impl.evaluate.questions import Question, parse_question
from ms_impl.evaluate.results import Result, check_writable, save_lines, save_scores
from ms_impl.generate.config import GenerationConfig
from ms_impl.generate.mixin import stop_sequences
from ms_impl.generate.text import answer_text


@dataclass(frozen=True)
class Ranks:
    """Which of several processes this is. ``wait`` returns when all have come to it."""

    rank: int = 0
    size: int = 1
    wait: Callable[[], None] = lambda: None


class Evaluation:
    """One data set, read and checked.

    Args:
        generation: settings of the answers; they are greedy whatever it says of sampling.

    Raises:
        InputError: for the first record that cannot be asked or scored; nothing has been run by then. Media are decoded
            to see that they can be.
    """

    def __init__(self, data: DataSet, template: Template, generation: GenerationConfig):
        self.data = data
        self.template = template.with_options(**data.options)
        generation = generation.changed(**data.generation)
        tokens = data.max_new_tokens or generation.max_new_tokens
        self.generation = generation.changed(do_sample=False, max_new_tokens=tokens)
        self.metric = METRICS[data.metric](self.template.boxes)
        file = RecordFile(data.annotation_file, data.num_samples)
        self._sha256 = file.sha256
        self.questions = [self._question(file, number) for number in range(len(file))]
        size = data.batch_size
        self._batches = [self.questions[start : start + size] for start in range(0, len(self.questions), size)]
        self._check()

    def fingerprint(self, weights: str) -> str:
        """A name for everything that the answers depend on; ``weights`` is the model's own. Media do not count."""
        of_no_matter = {"name": None, "annotation_file": None, "metric": self.metric.weighs_choices}
        settings = dataclasses.asdict(self.data) | of_no_matter
        whole = [weights, self._sha256, settings, dataclasses.asdict(self.generation)]
        return hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()

    def log(self, directory: Path, weights: str) -> AnswerLog:
        """Where its answers are kept, by weights with such a digest."""
        return AnswerLog(directory / self.data.name, self.fingerprint(weights), self._accepts)

    def answer(self, model: Any, log: AnswerLog, ranks: Ranks) -> None:
        """Answer what is not answered yet; each rank takes every n-th batch. Returns when all ranks are done."""
        batches = self._batches
        done = log.read()
        ranks.wait()  # before anyone writes: all must see the same
        pending = [number for number in range(len(batches)) if number not in done]
        hidden = True if ranks.rank else None  # None: unless it is a terminal
        progress = tqdm(total=len(self.questions), desc=self.data.name, unit="", disable=hidden)
        progress.update(sum(map(len, done.values())))
        with progress, log.append(ranks.rank) as writer:
            for start in range(0, len(pending), ranks.size):
                together = pending[start : start + ranks.size]
                if ranks.rank < len(together):
                    number = together[ranks.rank]
                    writer.write(number, self._ask(model, batches[number]))
                ranks.wait()  # so that none runs ahead: a collective gives up on a rank that is far behind
                progress.update(sum(len(batches[number]) for number in together))

    def score(self, log: AnswerLog, path: Path) -> Result:
        """Score the answers of all ranks, and write one line a record."""
        done = log.read()
        answers = [answer for number in sorted(done) for answer in done[number]]
        if len(answers) != len(self.questions):
            raise InputError(
                f"{log.directory}: {len(answers)} of {len(self.questions)} answers are here; ranks must share it"
            )
        thoughts, answers = map(list, zip(*map(self._apart, answers)))
        scores = self.metric.scores(self.questions, answers)
        save_lines((self._line(*row) for row in zip(self.questions, thoughts, answers, scores)), path)
        summary = self.metric.summary(self.questions, answers, scores)
        if self.generation.enable_thinking and not self.metric.weighs_choices:
            summary["well_formed"] = sum(map(self._is_well_formed, thoughts, answers)) / len(answers)
        return Result(self.data.name, self.data.metric, len(answers), summary)

    def _apart(self, answer: Any) -> tuple[str, Any]:
        """The thinking of an answer, which is not scored, and the answer."""
        return ("", answer) if self.metric.weighs_choices else split_thinking(answer, self.template.think_end)

    def _is_well_formed(self, thinking: str, answer: str) -> bool:
        """Whether a thinking has ended, once, and an answer follows it."""
        end = self.template.think_end
        return end is not None and bool(thinking and answer) and end not in answer

    def _line(self, question: Question, thinking: str, answer: Any, score: float) -> dict[str, Any]:
        asked = {"id": question.identity, "question": question.query} | ({"thinking": thinking} if thinking else {})
        return asked | self.metric.details(question, answer) | {"references": question.references, "score": score}

    def _question(self, file: RecordFile, number: int) -> Question:
        name = file.name(number)
        with record_faults(name):
            return parse_question(file[number], number, name, self.template)

    def _accepts(self, number: int, answers: list[Any]) -> bool:
        if not 0 <= number < len(self._batches) or len(answers) != len(self._batches[number]):
            return False
        return all(map(self.metric.is_answer, self._batches[number], answers))

    def _check(self) -> None:
        seen: set[Any] = set()
        for question in tqdm(self.questions, desc=f"checking {self.data.name}", unit="", disable=None):
            try:
                with record_faults(question.record):
                    self._check_question(question, seen)
            except InputError as error:
                raise InputError(f"{question.record}: {str(error).removeprefix(f'{question.record}: ')}") from error
        self.metric.check_all(self.questions)

    def _check_question(self, question: Question, seen: set[Any]) -> None:
        self.metric.check(question)
        sample = self._sample(question)
        self.template.policy(sample, self.generation)  # raises where its settings leave no answer
        self._check_length(question, len(sample))
        for medium in sample.media:
            if medium.source not in seen:
                self.template.check_medium(medium)
                seen.add(medium.source)

    def _check_length(self, question: Question, prompt: int) -> None:
        choices = self._choices(question) if self.metric.weighs_choices else ()
        answer = max(map(len, choices)) if choices else self.generation.max_new_tokens
        limit = self.template.config.max_position_embeddings
        if prompt + answer > limit:
            raise InputError(f"{prompt} tokens, and {answer} for the answer, are more than the model's {limit}")

    def _sample(self, question: Question) -> Sample:
        """The prompt, its media found."""
        asked = question.query, question.history, question.system, self.generation
        sample = self.template.encode_turn(*asked, dataset_dir=self.template.options.dataset_dir)
        return self.template.find_media(dataclasses.replace(sample, record=question.record))

    def _choices(self, question: Question) -> list[list[int]]:
        return [self.template.encode_answer(text, self.generation.chat_format) for text in question.choices]

    def _ask(self, model: Any, questions: Sequence[Question]) -> list[Any]:
        samples = [self._sample(question) for question in questions]
        if self.metric.weighs_choices:
            choices = [self._choices(question) for question in questions]
            weights = log_likelihoods(model, self.template, samples, choices)
            return [[(w, len(tokens)) for w, tokens in zip(*row)] for row in zip(weights, choices)]
        stops = stop_sequences(self.template, self.generation)
        tokens = model.generate(self.template, samples, self.generation)
        return [answer_text(answer, stops, self.template.tokenizer.decode) for answer in tokens]


def run(
    evaluations: Sequence[Evaluation], model: Any, weights: str, directory: Path, ranks: Ranks = Ranks()
) -> list[Result] | None:
    """Answer and score data sets.

    Writes ``directory/NAME.jsonl``, one line a record, and ``directory/scores.json``; ``directory/answers`` lets a run
    that was killed be resumed.

    Args:
        model: in eval mode.
        weights: a digest of its weights.

    Returns:
        The results on rank 0, None on the others.
    """
    check_writable([directory / "scores.json", *(directory / f"{e.data.name}.jsonl" for e in evaluations)])
    logs = [e.log(directory / "answers", weights) for e in evaluations]
    for evaluation, log in zip(evaluations, logs):
        evaluation.answer(model, log, ranks)
    results = None
    if ranks.rank == 0:
        results = [e.score(log, directory / f"{e.data.name}.jsonl") for e, log in zip(evaluations, logs)]
        save_scores(results, directory / "scores.json")
    ranks.wait()
    return results
