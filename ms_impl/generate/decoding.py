"""Answers as they grow: one token a step for every row of a batch, until each has come to its end."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager

import numpy as np

from ms_impl.generate.config import GenerationConfig
from ms_impl.generate.decode import Batch, Decoder
from ms_impl.generate.sampling import Sampler

StopWords = Sequence[Sequence[int]]


class Answer:
    """The tokens that follow one prompt.

    Args:
        prompt: token ids.
        stops: token sequences that end the answer.
    """

    def __init__(self, prompt: Sequence[int], sampler: Sampler, stops: StopWords, max_new_tokens: int):
        self.ids = [int(token) for token in prompt]
        self.begin = len(self.ids)
        self.sampler = sampler
        self.stops = [list(stop) for stop in stops]
        self.max_new_tokens = max_new_tokens

    @property
    def tokens(self) -> list[int]:
        """What was generated, the stop word included."""
        return self.ids[self.begin :]

    @property
    def count(self) -> int:
        """How many tokens were generated."""
        return len(self.ids) - self.begin

    @property
    def stopped(self) -> bool:
        """Whether it ends in a stop word."""
        return any(len(stop) <= self.count and ends_with(self.ids, stop) for stop in self.stops)

    @property
    def finished(self) -> bool:
        return self.stopped or self.count >= self.max_new_tokens

    def extend(self, logits: np.ndarray) -> int:
        """Append the next token, picked from logits [vocab], and return it."""
        self.ids.append(self.sampler.pick(logits, self.ids))
        return self.ids[-1]


def ends_with(tokens: Sequence[int], end: Sequence[int]) -> bool:
    """Whether the last tokens are those of ``end``."""
    return len(tokens) >= len(end) and list(tokens[len(tokens) - len(end) :]) == list(end)


def without_stop(tokens: Sequence[int], stops: StopWords) -> list[int]:
    """Tokens of an answer without the stop word at their end."""
    end = next((stop for stop in stops if ends_with(tokens, stop)), ())
    return list(tokens[: len(tokens) - len(end)])


def grow(lent: AbstractContextManager[Decoder], batch: Batch, answers: Sequence[Answer]) -> Iterator[dict[int, int]]:
    """Generate the answers to a batch. Yields the new token of each unfinished row, by row, step by step."""
    with lent as decoder:
        logits = decoder.prefill(batch)
        while True:
            yield {row: answer.extend(logits[row]) for row, answer in enumerate(answers) if not answer.finished}
            if all(answer.finished for answer in answers):
                return
            logits = decoder.step(np.array([answer.ids[-1] for answer in answers]))


def samplers(config: GenerationConfig, seed: int | None, count: int) -> list[Sampler]:
    """One for each row, seeded by its place; without a seed every call draws anew."""
    return [Sampler(config, None if seed is None else (seed, row)) for row in range(count)]
