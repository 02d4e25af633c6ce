"""From a question to a job: the prompt's arrays, media read, and answers that have not begun."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ms_impl.data.batch import collate
from ms_impl.data.images import in_directory
from ms_impl.data.template import Query, Template
from ms_impl.errors import InputError
from ms_impl.generate.config import GenerationConfig
from ms_impl.generate.decode import padding_side
from ms_impl.generate.decoding import Answer, samplers
from ms_impl.generate.mixin import stop_sequences
from ms_impl.generate.text import TextStreamer
from ms_impl.serve.choice import Choice, Piece
from ms_impl.serve.scheduler import Job, require_room


@dataclass(frozen=True)
class Question:
    """What is asked, and how it is to be answered.

    Args:
        history: (query, answer) pairs, oldest first.
        directory: stands before the names of media.
        names: those of the media that the messages show, in order.
        options: of the template, that differ from its own.
        max_new_tokens: None: as many as ``generation`` says, or there is room for.
        top: how many of the likeliest tokens are reported with each; None: no log-probabilities.
    """

    query: Query
    history: Sequence[tuple[Query, str]] = ()
    system: str | None = None
    directory: str | os.PathLike | None = None
    names: Sequence[str] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    generation: GenerationConfig = field(default_factory=GenerationConfig)
    max_new_tokens: int | None = None
    count: int = 1
    seed: int | None = None
    stop: Sequence[str] = ()
    top: int | None = None


def job_for(
    template: Template, question: Question, columns: int,
    report: Callable[[int | None, Piece | Exception | None], None], deadline: float = float("inf"),
) -> Job:  # fmt: skip
    """The job of a question that may take ``columns`` of prompt and answer.

    Choice i draws as row i of ``model.generate`` does. Raises InputError for what the model does not take.
    """
    if question.options:
        template = template.with_options(**question.options)
    history = [(template.query_text(query), answer) for query, answer in question.history]
    query = template.query_text(question.query)
    require_shown(template, [question.system or "", *(text for turn in [*history, (query, "")] for text in turn)],
                  question.names)  # fmt: skip
    generation = question.generation
    sample = template.encode_turn(query, history, question.system, generation, question.directory, lenient=True)
    if (limit := question.max_new_tokens) is None:
        limit = max(1, min(generation.max_new_tokens, columns - len(sample)))
    generation = generation.changed(max_new_tokens=limit)
    policy = template.policy(sample, generation)
    require_room(len(sample), limit + (policy.overrun if policy else 0), columns)  # before media are decoded
    batch = collate(in_directory([sample], question.directory), template, padding_side=padding_side(template))
    stops = stop_sequences(template, generation)
    choices = []
    for sampler in samplers(generation, question.seed, question.count):
        answer = Answer(sample.input_ids.tolist(), sampler, stops, limit, template.policy(sample, generation))
        text = TextStreamer(stops, template.tokenizer.detokenizer())
        choices.append(Choice(answer, text, question.stop, stops, question.top, template.tokenizer.bytes_of))
    return Job(batch, choices, report, deadline)


def require_shown(template: Template, texts: Sequence[str], names: Sequence[str]) -> None:
    """Raise InputError unless texts show exactly the media of these names, in order.

    Templates read media where mark-up in a text names them: what someone writes must not open a file of this machine.
    """
    found = [source for text in texts for source in template.sources_in(text)]
    if found != list(names):
        raise InputError(
            "the text of a message has mark-up that a model of this kind reads as an image, a video or a sound; "
            "give media as parts of the content, and leave the mark-up out"
        )
