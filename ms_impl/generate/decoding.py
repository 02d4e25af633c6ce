"""Answers as they grow: one token a step for every row of a batch, until each has come to its end."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager

import numpy as np

from ms_impl.data.sample import MediaKind
from ms_impl.data.template import TokenPolicy
from ms_impl.generate.config import GenerationConfig
from ms_impl.generate.decode import Decoder
from ms_impl.generate.features import Batch
from ms_impl.generate.sampling import Sampler

StopWords = Sequence[Sequence[int]]


class Answer:
    """The tokens that follow one prompt.

    Args:
        prompt: token ids, without padding.
        stops: token sequences that end the answer.
        policy: what decides over tokens before they are sampled; None: all are sampled, and the repetition penalty
            covers prompt and answer.
    """

    def __init__(
        self,
        prompt: Sequence[int],
        sampler: Sampler,
        stops: StopWords,
        max_new_tokens: int,
        policy: TokenPolicy | None = None,
    ):
        self.prompt = [int(token) for token in prompt]
        self.tokens: list[int] = []  # what was generated, the stop word included
        self.sampler = sampler
        self.stops = [list(stop) for stop in stops]
        self.max_new_tokens = max_new_tokens
        self.policy = policy

    @property
    def stopped(self) -> bool:
        """Whether it ends in a stop word."""
        return any(ends_with(self.tokens, stop) for stop in self.stops)

    @property
    def finished(self) -> bool:
        """Whether it is stopped, or as long as it may be, what is being forced included."""
        beyond = len(self.tokens) - self.max_new_tokens
        if self.stopped or beyond < 0:
            return self.stopped
        return self.policy is None or beyond >= self.policy.overrun or self.policy.forced(self.tokens) is None

    def extend(self, logits: np.ndarray) -> int:
        """Append the next token, the one that is forced or one picked from logits [vocab], and return it."""
        token = None if self.policy is None else self.policy.forced(self.tokens)
        if token is None:
            token = self.sampler.pick(logits, self._penalised())
        self.tokens.append(token)
        return token

    def _penalised(self) -> Sequence[int]:
        """The tokens that the repetition penalty covers, where there is one."""
        if self.sampler.config.repetition_penalty == 1:
            return ()
        if self.policy is None:
            return [*self.prompt, *self.tokens]
        return self.policy.penalised(self.prompt, self.tokens)


def ends_with(tokens: Sequence[int], end: Sequence[int]) -> bool:
    """Whether the last tokens are those of ``end``."""
    if len(tokens) < len(end) or end and tokens[-1] != end[-1]:  # as nearly always
        return False
    return list(tokens[len(tokens) - len(end) :]) == list(end)


def without_stop(tokens: Sequence[int], stops: StopWords) -> list[int]:
    """Tokens of an answer without the stop word at their end."""
    end = next((stop for stop in stops if ends_with(tokens, stop)), ())
    return list(tokens[: len(tokens) - len(end)])


def grow(
    lent: AbstractContextManager[Decoder], batch: Batch, kinds: Sequence[MediaKind], answers: Sequence[Answer]
) -> Iterator[dict[int, int]]:
    """Generate the answers to a batch. Yields the new token of each unfinished row, by row, step by step."""
    with lent as decoder:
        logits = decoder.prefill(batch, kinds)
        while True:
            yield {row: answer.extend(logits[row]) for row, answer in enumerate(answers) if not answer.finished}
            if all(answer.finished for answer in answers):
                return
            logits = decoder.step(np.array([answer.tokens[-1] for answer in answers]))


def samplers(config: GenerationConfig, seed: int | None, count: int) -> list[Sampler]:
    """One for each row, seeded by its place; without a seed every call draws anew."""
    return [Sampler(config, None if seed is None else (seed, row)) for row in range(count)]
