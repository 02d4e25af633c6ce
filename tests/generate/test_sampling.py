"""Sampling against the processors of transformers, on random logits; seeds."""

import numpy as np
import pytest
import torch
from transformers.generation.logits_process import (
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from ms_impl.generate.config import GenerationConfig
from ms_impl.generate.sampling import Sampler, keep_top_k, keep_top_p, penalise_repetition, probabilities

VOCABULARY = 2000


def random_logits(seed: int, spread: float = 4.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(scale=spread, size=VOCABULARY)


def theirs(processor, logits: np.ndarray, ids=(0,)) -> np.ndarray:
    return processor(torch.tensor([list(ids)]), torch.tensor(logits)[None].clone())[0].numpy()


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("p", [1e-6, 0.1, 0.3, 0.5, 0.8, 0.95, 0.999])
@pytest.mark.parametrize("spread", [0.1, 1.0, 8.0])
def test_top_p(seed, p, spread):
    logits = random_logits(seed, spread)
    np.testing.assert_array_equal(keep_top_p(logits, p), theirs(TopPLogitsWarper(p), logits))


@pytest.mark.parametrize("p", [1e-17, 0.5, 0.999])
def test_top_p_of_equal_logits_keeps_some(p):
    kept = np.isfinite(keep_top_p(np.zeros(VOCABULARY), p)).sum()
    assert kept == pytest.approx(max(p * VOCABULARY, 1), abs=1)


@pytest.mark.parametrize("k", [1, 2, 50, VOCABULARY, VOCABULARY + 7])
def test_top_k(k):
    logits = random_logits(k)
    np.testing.assert_array_equal(keep_top_k(logits, k), theirs(TopKLogitsWarper(k), logits))


@pytest.mark.parametrize("penalty", [0.8, 1.1, 2.0])
def test_repetition_penalty(penalty):
    logits = random_logits(1)
    ids = [3, 3, 5, 1999, 0, 17]
    expected = theirs(RepetitionPenaltyLogitsProcessor(penalty), logits, ids)
    np.testing.assert_allclose(penalise_repetition(logits, ids, penalty), expected)


def test_all_together_in_the_order_of_transformers():
    config = GenerationConfig(do_sample=True, temperature=0.7, top_k=40, top_p=0.6, repetition_penalty=1.3)
    logits, ids = random_logits(2), [int(token) for token in random_logits(2).argsort()[-5:]]
    expected = torch.tensor(logits)[None]
    for step in (RepetitionPenaltyLogitsProcessor(1.3), TemperatureLogitsWarper(0.7), TopKLogitsWarper(40)):
        expected = step(torch.tensor([ids]), expected)
    expected = TopPLogitsWarper(0.6)(torch.tensor([ids]), expected).softmax(-1)[0].numpy()
    sampler = Sampler(config, seed=0)
    draws = np.bincount([sampler.pick(logits, ids) for _ in range(4000)], minlength=VOCABULARY) / 4000
    assert set(np.flatnonzero(draws)) <= set(np.flatnonzero(expected))
    np.testing.assert_allclose(draws, expected, atol=4 * 0.5 / np.sqrt(4000))


def test_greedy_takes_the_likeliest_after_the_penalty():
    logits = np.array([1.0, 3.0, 2.0])
    assert Sampler(GenerationConfig(do_sample=False)).pick(logits, []) == 1
    assert Sampler(GenerationConfig(do_sample=False, repetition_penalty=2.0)).pick(logits, [1]) == 2


def test_a_seed_repeats_the_draws():
    config = GenerationConfig(do_sample=True)
    samplers = [Sampler(config, seed) for seed in (1, 1, 2)]
    first, second, other = ([sampler.pick(random_logits(7, 1.0), []) for _ in range(20)] for sampler in samplers)
    assert first == second != other


def test_probabilities_of_large_logits():
    np.testing.assert_allclose(probabilities(np.array([1e4, 1e4, -np.inf])), [0.5, 0.5, 0.0])


def drawn_plainly(generator: np.random.Generator, logits: np.ndarray, config: GenerationConfig) -> int:
    """By the definition, over the whole vocabulary, every number of which is sorted."""
    scores = logits.astype(np.float64) / config.temperature
    if config.top_k:
        scores[scores < np.sort(scores)[-config.top_k]] = -np.inf
    if config.top_p < 1:
        ascending = np.argsort(scores, kind="stable")
        up_to = np.cumsum(probabilities(scores)[ascending])
        scores[ascending[: min(np.count_nonzero(up_to <= 1 - config.top_p), scores.size - 1)]] = -np.inf
    return int(generator.choice(scores.size, p=probabilities(scores)))


@pytest.mark.parametrize("top_k, top_p, spread", [
    (0, 1.0, 1.0), (50, 1.0, 2.0), (0, 0.8, 0.3), (0, 0.8, 3.0), (50, 0.8, 2.0), (2000, 0.95, 2.0),
])  # fmt: skip
def test_looking_at_few_tokens_draws_what_the_whole_vocabulary_does(top_k, top_p, spread):
    """Sums over fewer numbers may be rounded otherwise, which no draw here meets."""
    config = GenerationConfig(do_sample=True, temperature=0.9, top_k=top_k, top_p=top_p)
    sampler, plain = Sampler(config, 3), np.random.default_rng(3)
    for seed in range(12):
        logits = np.random.default_rng(seed).normal(scale=spread, size=151_936).astype(np.float32)
        assert sampler.pick(logits, []) == drawn_plainly(plain, logits, config)
