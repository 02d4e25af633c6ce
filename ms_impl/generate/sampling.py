"""From logits to the next token, in numpy. Order and meaning of the steps are those of Hugging Face's ``generate``."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ms_impl.generate.config import GenerationConfig


def penalise_repetition(logits: np.ndarray, ids: Sequence[int], penalty: float) -> np.ndarray:
    """Make the tokens ``ids`` less likely: logits [vocab] above 0 divided by ``penalty``, others multiplied."""
    seen = np.unique(np.asarray(ids, dtype=np.int64))
    scores = logits.copy()
    scores[seen] = np.where(scores[seen] < 0, scores[seen] * penalty, scores[seen] / penalty)
    return scores


def keep_top_k(logits: np.ndarray, k: int) -> np.ndarray:
    """−∞ for all logits [vocab] below the k-th largest."""
    k = min(k, logits.size)
    return np.where(logits < np.partition(logits, -k)[-k], -np.inf, logits)


def keep_top_p(logits: np.ndarray, p: float) -> np.ndarray:
    """−∞ for all logits [vocab] but the fewest largest whose probabilities add up to ``p``; one at least stays."""
    weights = probabilities(logits)
    # Tokens rarer than this are not worth sorting: all of them together stay below 1 − p.
    common = np.flatnonzero(weights > (1 - p) / (2 * weights.size))
    ascending = common[np.argsort(weights[common], kind="stable")]
    up_to = 1 - weights[common].sum() + np.cumsum(weights[ascending])
    first = min(np.count_nonzero(up_to <= 1 - p), ascending.size - 1)
    kept = np.full_like(logits, -np.inf)
    kept[ascending[first:]] = logits[ascending[first:]]
    return kept


def probabilities(logits: np.ndarray) -> np.ndarray:
    """Softmax over [vocab]."""
    weights = np.exp(logits - logits.max())
    return weights / weights.sum()


class Sampler:
    """Picks the tokens of one answer.

    Args:
        seed: what ``numpy.random.default_rng`` takes; each answer draws from a generator of its own, so that it does
            not depend on the others of its batch.
    """

    def __init__(self, config: GenerationConfig, seed: int | Sequence[int] | None = None):
        self.config = config
        self.generator = np.random.default_rng(seed)

    def pick(self, logits: np.ndarray, ids: Sequence[int]) -> int:
        """The next token, given logits [vocab] and all tokens before it, prompt and answer."""
        config = self.config
        scores = logits.astype(np.float64)
        if config.repetition_penalty != 1:
            scores = penalise_repetition(scores, ids, config.repetition_penalty)
        if not config.do_sample:
            return int(scores.argmax())
        scores = scores / config.temperature
        if config.top_k:
            scores = keep_top_k(scores, config.top_k)
        if config.top_p < 1:
            scores = keep_top_p(scores, config.top_p)
        return int(self.generator.choice(scores.size, p=probabilities(scores)))
