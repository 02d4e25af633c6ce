"""``generate`` and ``chat``: what every family's model inherits."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterator, Sequence
from functools import cached_property
from operator import index
from typing import Any

from ms_impl.data.batch import collate
from ms_impl.data.images import in_directory
from ms_impl.data.sample import Sample
from ms_impl.data.template import Template
from ms_impl.errors import InputError, quote
from ms_impl.generate.config import GenerationConfig
from ms_impl.generate.decode import DecoderPool, padding_side
from ms_impl.generate.decoding import Answer, StopWords, grow, samplers
from ms_impl.generate.encoder_parts import EncoderLayers, TableRows
from ms_impl.generate.text import TextStreamer

Turn = tuple[str, str | None]
History = list[Turn]
Query = str | Sequence[dict[str, Any]]


class GenerationMixin:
    """Mixed into a model that is a ``ms_impl.generate.decoder_model.DecoderModel``.

    ``generation`` holds the model's default settings.
    """

    generation = GenerationConfig()

    def encoder_parts(self, encode: str) -> EncoderLayers | TableRows | None:
        """What the encoder is made of that is the method ``encode``; None: it is computed as a whole."""
        return None

    @cached_property
    def decoders(self) -> DecoderPool:
        """Where to borrow a decoder for logits step by step: ``with model.decoders.lend(rows, columns) as decoder``."""
        return DecoderPool(self)

    def generate(
        self,
        template: Template,
        samples: Sequence[Sample],
        generation: GenerationConfig | None = None,
        *,
        stream: Callable[[int, int], None] | None = None,
        seed: int | None = None,
        dataset_dir: str | os.PathLike | None = None,
    ) -> list[list[int]]:
        """The new token ids of each sample, up to and including its stop word.

        Args:
            samples: prompts, answered together as one batch; see ``ms_impl.data.sample``.
            generation: settings; the model's own where None.
            stream: called with (row, token) for every new token.
            seed: makes sampling repeatable. A row's draws depend on the seed and its place alone.
            dataset_dir: stands before relative image paths.

        Raises:
            InputError: an image cannot be read, or prompt and answer may be longer than the model takes.
        """
        generation = generation or self.generation
        stops = stop_sequences(template, generation)
        tokens: list[list[int]] = [[] for _ in samples]
        for new in self._steps(template, samples, generation, stops, seed, dataset_dir):
            for row, token in new.items():
                tokens[row].append(token)
                if stream:
                    stream(row, token)
        return tokens

    def chat(
        self,
        template: Template,
        query: Query,
        history: Sequence[Turn] | None = None,
        system: str | None = None,
        *,
        stream: bool | Callable[[str], None] = False,
        seed: int | None = None,
        dataset_dir: str | os.PathLike | None = None,
        stop_words_ids: StopWords | None = None,
        **changes: Any,
    ) -> tuple[str, History] | Generator[str, None, tuple[str, History]]:
        """One turn of a conversation: the answer, and the history with this turn added.

        Args:
            query: text, or a list such as ``[{"image": path or PIL image}, {"text": question}]``.
            history: (query, answer) pairs, oldest first; an answer may be None. The raw format of base models has none.
                What an earlier answer says of images that cannot be shown is text, with a warning.
            system: the system message; None: the family's own. The raw format has none.
            stream: a function gets the pieces of the answer as they come. True returns a generator of them, which
                itself returns (answer, history). The pieces joined are the answer.
            stop_words_ids: further token sequences that end the answer, and stay in its text, as in the original.
            changes: generation settings that differ from the model's own, such as ``do_sample=False``.

        Raises:
            InputError: as ``generate``, or for an unknown setting.
        """
        generation = self.generation.changed(**changes)
        stops, more_stops = stop_sequences(template, generation), _checked(stop_words_ids)
        query = template.query_text(query)
        turn = template.encode_turn(query, history, system, generation, dataset_dir, lenient=True)
        steps = self._steps(template, [turn], generation, [*stops, *more_stops], seed, dataset_dir)
        pieces = _converse(steps, TextStreamer(stops, template.tokenizer.detokenizer()), query, history or ())
        return pieces if stream is True else _exhaust(pieces, stream or None)

    def _steps(
        self,
        template: Template,
        samples: Sequence[Sample],
        generation: GenerationConfig,
        stops: StopWords,
        seed: int | None,
        dataset_dir: str | os.PathLike | None,
    ) -> Iterator[dict[int, int]]:
        """The new tokens by row, step by step."""
        batch = collate(in_directory(samples, dataset_dir), template, padding_side=padding_side(template))
        answers = [
            Answer(sample.input_ids, sampler, stops, generation.max_new_tokens, template.policy(sample, generation))
            for sample, sampler in zip(samples, samplers(generation, seed, len(samples)))
        ]
        overrun = max(answer.policy.overrun if answer.policy else 0 for answer in answers)
        columns = batch["input_ids"].shape[1] + generation.max_new_tokens + overrun
        return grow(self.decoders.lend(len(samples), columns), batch, template.kinds, answers)


def stop_sequences(template: Template, generation: GenerationConfig) -> list[list[int]]:
    """All token sequences that end an answer."""
    return template.stop_words(generation.chat_format) + [[token] for token in generation.eos_token_ids]


def _checked(stop_words_ids: Any) -> list[list[int]]:
    """Stop words of a caller. Raises InputError for what is not a list of token sequences."""
    try:
        stops = [[index(token) for token in stop] for stop in stop_words_ids or ()]
    except TypeError as error:
        raise InputError(f"stop_words_ids must be a list of lists of token ids, not {quote(stop_words_ids)}") from error
    if not all(stops):
        raise InputError("stop_words_ids: a stop word without a token would end every answer; remove it")
    return stops


def _converse(
    steps: Iterator[dict[int, int]], text: TextStreamer, query: str, history: Sequence[Turn]
) -> Generator[str, None, tuple[str, History]]:
    """The pieces of one answer; returns the answer and the history with this turn added."""
    for new in steps:
        if piece := text.add(new[0]):
            yield piece
    if piece := text.finish():
        yield piece
    return text.shown, [*history, (query, text.shown)]


def _exhaust(pieces: Generator[str, None, Any], take: Callable[[str], None] | None) -> Any:
    """Run a generator to its end, handing its pieces to ``take``; what it returned."""
    while True:
        try:
            piece = next(pieces)
        except StopIteration as end:
            return end.value
        if take:
            take(piece)
