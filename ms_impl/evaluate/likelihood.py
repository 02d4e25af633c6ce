"""How likely a model finds answers that are given: the prompt once, then each answer's tokens after it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from ms_impl.data.batch import collate
from ms_impl.data.images import in_directory
from ms_impl.data.sample import Sample
from ms_impl.data.template import Template
from ms_impl.generate.decode import padding_side

Tokens = Sequence[int]


def log_likelihoods(
    model: Any,
    template: Template,
    samples: Sequence[Sample],
    answers: Sequence[Sequence[Tokens]],
    dataset_dir: str | os.PathLike | None = None,
) -> list[list[float]]:
    """The log-probability of each answer after its prompt, summed over its tokens (not normalised by their number).

    Args:
        model: one with ``decoders`` (see ``ms_impl.generate.mixin``).
        samples: prompts, run as one batch.
        answers: of each prompt any number of answers, each at least one token.

    Raises:
        InputError: an image cannot be read, or prompt and answer are longer than the model takes.
    """
    batch = collate(in_directory(samples, dataset_dir), template, padding_side=padding_side(template))
    length = batch["input_ids"].shape[1]
    longest = max(len(tokens) for given in answers for tokens in given)
    sums = [[0.0] * len(given) for given in answers]
    with model.decoders.lend(len(samples), length + longest) as decoder:
        after_prompt = _log_softmax(decoder.prefill(batch, template.kinds))
        for number in range(max(map(len, answers))):
            asked = [given[number] if number < len(given) else () for given in answers]
            decoder.rewind()
            for row, value in enumerate(_weigh(decoder, after_prompt, asked)):
                if asked[row]:
                    sums[row][number] = value
    return sums


def _weigh(decoder: Any, logs: np.ndarray, rows: Sequence[Tokens]) -> np.ndarray:
    """The summed log-probabilities of one answer a row, float64 [B], given those of its first token, [B, vocab]."""
    sums = np.zeros(len(rows))
    for column in range(max(map(len, rows))):
        if column:
            last = [tokens[column - 1] if column <= len(tokens) else 0 for tokens in rows]
            logs = _log_softmax(decoder.step(np.array(last)))
        for row, tokens in enumerate(rows):
            if column < len(tokens):
                sums[row] += logs[row, tokens[column]]
    return sums


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    """Over the last axis, in float64."""
    shifted = logits.astype(np.float64) - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
