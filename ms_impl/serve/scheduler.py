"""Who is answered when: requests enter the running batch between two steps, and leave it when they are done."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ms_impl.data.template import Template
from ms_impl.errors import InputError
from ms_impl.generate.features import Batch, KeptFeatures
from ms_impl.generate.prefixes import KeptPrefixes
from ms_impl.generate.row_batch import RowBatch
from ms_impl.serve.choice import Choice, Piece
from ms_impl.serve.metrics import Pace

logger = logging.getLogger(__name__)


class QueueFull(Exception):
    """As many requests wait as may."""


class TimeLimit(Exception):
    """A request took longer than it may."""


class ShuttingDown(Exception):
    """The server ends, and this request's answer with it."""


@dataclass(eq=False)
class Job:
    """A prompt and the answers that it gets.

    Args:
        batch: one row, its media read.
        report: called in the scheduler's thread with the number of a choice and what came of it; in the end with
            None, and None or what went wrong.
        deadline: by ``time.monotonic``.
    """

    batch: Batch
    choices: list[Choice]
    report: Callable[[int | None, Piece | Exception | None], None]
    deadline: float = float("inf")
    cancelled: bool = field(default=False, init=False)

    @property
    def length(self) -> int:
        """Tokens of the prompt."""
        ids = self.batch["input_ids"]
        assert ids is not None
        return int(ids.shape[1])

    def cancel(self) -> None:
        """Nobody waits for the answers any more: they end before the next step, without a report."""
        self.cancelled = True

    def problem(self) -> Exception | None:
        """Why it is over before it is done."""
        return TimeLimit() if time.monotonic() > self.deadline else None


@dataclass
class Counts:
    """What a scheduler has done, for who measures it."""

    steps: int = 0
    prompt_tokens: int = 0
    generated_tokens: int = 0
    row_steps: int = 0


class Scheduler:
    """Answers jobs in one thread, which alone uses the model.

    Between two steps of the batch one chunk of one prompt is prefilled, so that neither a long answer nor a long prompt
    holds up the others for long. A row has the bits that it has alone, whatever comes and goes beside it.

    Args:
        rows: answers at once.
        columns: of prompt and answer together; None: as many as the model takes.
        max_waiting: jobs that may be prepared or wait beyond those that are answered.
        kept_bytes: of the features of media, so that a conversation's next turn does not encode them again.
        prefix_bytes: of keys and values of the beginnings of prompts, so that it does not prefill them again.
    """

    def __init__(
        self, model: Any, template: Template, rows: int, max_waiting: int, columns: int | None = None,
        kept_bytes: int = 256 << 20, prefix_bytes: int = 1 << 30,
    ):  # fmt: skip
        limit = model.config.max_position_embeddings
        self.model, self.kinds = model, template.kinds
        self.rows, self.max_waiting = rows, max_waiting
        self.columns = min(columns or limit, limit)
        self.counts = Counts()
        self.pace = Pace()  # of generated tokens
        self.kept = model.decoders.encoder.kept = KeptFeatures(kept_bytes)
        self.prefixes = model.decoders.kept = KeptPrefixes(prefix_bytes)
        self.batch = RowBatch(model, rows, self.columns)
        self.answering: dict[int, tuple[Job, int]] = {}  # row: a job and the number of its choice
        self._queue: deque[Job] = deque()
        self._reserved = 0  # places of jobs that are being prepared
        self._entering: tuple[Job, Iterator[None]] | None = None
        self._changed = threading.Condition()
        self._closed = self._aborted = False
        self.flush: Callable[[], object] = lambda: None  # called, in its thread, after the reports of a step
        self._thread = threading.Thread(target=self._run, name="scheduler", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Jobs that are prepared or wait."""
        return len(self._queue) + self._reserved

    @property
    def alive(self) -> bool:
        return self._thread.is_alive() and not self._closed

    def reserve(self) -> None:
        """A place in the queue for a job that is yet to be prepared. Raises QueueFull, ShuttingDown."""
        with self._changed:
            if self._closed:
                raise ShuttingDown
            if self.waiting >= self.max_waiting:
                raise QueueFull
            self._reserved += 1

    def unreserve(self) -> None:
        """Give such a place back."""
        with self._changed:
            self._reserved -= 1
            self._changed.notify()

    def submit(self, job: Job) -> None:
        """Answer a job that has a place. Raises InputError where it has no room, and then the place is free."""
        try:
            self._check_room(job)
        except InputError:
            self.unreserve()
            raise
        with self._changed:
            self._reserved -= 1
            self._queue.append(job)
            self._changed.notify()

    def close(self, seconds: float) -> None:
        """Take no more jobs, finish those that are there within some seconds, and end the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join(seconds)
        self._aborted = True
        self._thread.join()

    def _check_room(self, job: Job) -> None:
        answers = [choice.answer for choice in job.choices]
        if len(answers) > self.rows:
            raise InputError(f"{len(answers)} answers at once are more than the {self.rows} of this server")
        most = max(each.max_new_tokens + (each.policy.overrun if each.policy else 0) for each in answers)
        require_room(job.length, most, self.columns)

    # What follows runs in the scheduler's thread.

    def _run(self) -> None:
        while self._awaited():
            self._drop()
            self._enter()
            self.flush()
            if self.answering:
                self._step()
                self.flush()

    def _awaited(self) -> bool:
        """Wait for work; False: there is none, and there will be none."""
        with self._changed:
            while not (self._queue or self._entering or self.answering):
                if self._closed and not self._reserved or self._aborted:
                    return False
                self._changed.wait(0.1 if self._closed else None)
        return True

    def _drop(self) -> None:
        """End what is cancelled or out of time."""
        over = ShuttingDown() if self._aborted else None
        for job in {id(job): job for job, _ in self.answering.values()}.values():
            if job.cancelled or (problem := over or job.problem()):
                self._end(job, None if job.cancelled else problem)
        if self._entering and (self._entering[0].cancelled or over or self._entering[0].problem()):
            job, steps = self._entering
            steps.close()  # type: ignore[attr-defined]  # a generator: the decoder goes back
            self._entering = None
            self._end(job, over or job.problem())
        with self._changed:
            ended = [job for job in self._queue if job.cancelled or over or job.problem()]
            self._queue = deque(job for job in self._queue if job not in ended)
        for job in ended:
            self._end(job, over or job.problem())

    def _enter(self) -> None:
        """One chunk of the prompt that is being prefilled, or the first of the next one."""
        if self._entering is None:
            with self._changed:
                if not self._queue or len(self._queue[0].choices) > self.batch.free:
                    return
                job = self._queue.popleft()
            self._entering = job, self._admission(job)
        job, steps = self._entering
        try:
            next(steps)
        except StopIteration:
            self._entering = None
        except Exception as error:  # the others are answered all the same
            self._entering = None
            self._end(job, error)

    def _admission(self, job: Job) -> Iterator[None]:
        """Prefill a prompt chunk by chunk; then its answers have their first token and a row each."""
        length = job.length
        with self.model.decoders.lend(1, length) as decoder:
            for found in decoder.prefilling(job.batch, self.kinds):
                logits: np.ndarray = found
                yield
            self.counts.prompt_tokens += length
            for number, choice in enumerate(job.choices):
                self._extend(job, number, logits[0])
                if not choice.finished:
                    self.answering[self.batch.admit(decoder)] = job, number
        if all(choice.finished for choice in job.choices):
            self._end(job, None)

    def _step(self) -> None:
        """One token for every row."""
        tokens = {row: job.choices[number].answer.tokens[-1] for row, (job, number) in self.answering.items()}
        try:
            found = self.batch.step(tokens)
        except Exception as error:
            for job in {id(job): job for job, _ in self.answering.values()}.values():
                self._end(job, error)
            return
        self.counts.steps += 1
        self.counts.row_steps += len(tokens)
        for row, logits in found.items():
            if row not in self.answering:  # its job ended with another row of it
                continue
            job, number = self.answering[row]
            if isinstance(logits, InputError):
                self._end(job, logits)
                continue
            self._extend(job, number, logits)
            if job.choices[number].finished:
                self._release(row)
                if all(choice.finished for choice in job.choices):
                    self._end(job, None)

    def _extend(self, job: Job, number: int, logits: np.ndarray) -> None:
        self.counts.generated_tokens += 1
        self.pace.add(1)
        self._report(job, number, job.choices[number].extend(logits))

    def _release(self, row: int) -> None:
        del self.answering[row]
        self.batch.release(row)

    def _end(self, job: Job, problem: Exception | None) -> None:
        for row in [row for row, (other, _) in self.answering.items() if other is job]:
            self._release(row)
        if problem and not isinstance(problem, InputError | TimeLimit | ShuttingDown):
            logger.error("an answer failed", exc_info=problem)
        self._report(job, None, problem)
        job.report = unheard  # who asked holds the job: a ring, with all its arrays, that is seldom looked for

    def _report(self, job: Job, number: int | None, what: Piece | Exception | None) -> None:
        if job.cancelled:
            return
        try:
            job.report(number, what)
        except Exception:  # whoever asked is gone
            logger.warning("an answer could not be handed over", exc_info=True)
            job.cancel()


def unheard(number: int | None, what: Piece | Exception | None) -> None:
    """A report that nobody waits for."""


def require_room(prompt: int, answer: int, columns: int) -> None:
    """Raise InputError unless prompt and answer fit into so many columns."""
    if prompt + answer > columns:
        raise InputError(
            f"prompt and answer need {prompt:,} + {answer:,} tokens, but there is room for {columns:,}; "
            "shorten one of them"
        )
