"""From logits to the next token, in numpy. Order and meaning of the steps are those of Hugging Face's ``generate``."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ms_impl.generate.config import GenerationConfig

BLOCK, FEW = 256, 1024


def penalise_repetition(logits: np.ndarray, ids: Sequence[int], penalty: float) -> np.ndarray:
    """Make the tokens ``ids`` less likely: logits [vocab] above 0 divided by ``penalty``, others multiplied."""
    seen = np.unique(np.asarray(ids, dtype=np.int64))
    scores = logits.copy()
    scores[seen] = np.where(scores[seen] < 0, scores[seen] * penalty, scores[seen] / penalty)
    return scores


def kth_largest(numbers: np.ndarray, k: int) -> float:
    """The k-th largest of [n] numbers; few of them are sorted."""
    blocks = numbers[: numbers.size // BLOCK * BLOCK].reshape(-1, BLOCK)
    if k < len(blocks):  # k blocks have a number that is not below the k-th of their largest, and so no other counts
        numbers = numbers[numbers >= np.partition(blocks.max(-1), -k)[-k]]
    return np.partition(numbers, -k)[-k]


def keep_top_k(logits: np.ndarray, k: int) -> np.ndarray:
    """−∞ for all logits [vocab] below the k-th largest."""
    return np.where(logits < kth_largest(logits, min(k, logits.size)), -np.inf, logits)


def keep_top_p(logits: np.ndarray, p: float) -> np.ndarray:
    """−∞ for all logits [vocab] but the fewest largest whose probabilities add up to ``p``; one at least stays."""
    weights = probabilities(logits)
    # Tokens rarer than this are not worth sorting: all of them together stay below 1 − p.
    least = (1 - p) / (2 * weights.size)
    if weights.size > FEW and weights[weights >= (few := kth_largest(weights, FEW))].sum() > p:
        least = max(least, np.nextafter(few, 0))
    common = np.flatnonzero(weights > least)
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
        if not config.do_sample and config.repetition_penalty == 1:
            return int(logits.argmax())
        scores = logits.astype(np.float64)
        if config.repetition_penalty != 1:
            scores = penalise_repetition(scores, ids, config.repetition_penalty)
        if not config.do_sample:
            return int(scores.argmax())
        scores = scores / config.temperature
        left = np.arange(scores.size)
        if config.top_k:
            left = np.flatnonzero(scores >= kth_largest(scores, min(config.top_k, scores.size)))
        if config.top_p < 1:
            left = left[np.flatnonzero(keep_top_p(scores[left], config.top_p) > -np.inf)]
        return int(left[self._drawn(probabilities(scores[left]))])

    def _drawn(self, weights: np.ndarray) -> int:
        """A place by its probability, as ``Generator.choice`` draws it, without its checks of each."""
        up_to = weights.cumsum()
        return int((up_to / up_to[-1]).searchsorted(self.generator.random(), side="right"))
