"""Every family decodes with a cache what it computes without one, and a row of a batch as the row alone."""

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor
from tiny_checkpoint import normal, write_checkpoint

from ms_impl.weights import load_weights

LENGTHS = (5, 12, 9)
STEPS = 3
EXACT = 1e-5  # rms relative difference; seen: 6e-7


@pytest.fixture
def model(family, raw, tiny_config, tmp_path):
    checkpoint = write_checkpoint(tmp_path / "weights", family, raw, normal(0.1))
    built = family.resolve("model")(tiny_config)
    load_weights(built, checkpoint, family)
    return built.set_train(False)


def rows() -> list[np.ndarray]:
    generator = np.random.default_rng(0)
    return [generator.integers(5, 60, length + STEPS).astype(np.int32) for length in LENGTHS]


def decoded(model, prompts: list[np.ndarray]) -> np.ndarray:
    """Logits [B, 1 + STEPS, vocab] after each prompt, and after each of the tokens that follow in its row."""
    longest = max(len(prompt) for prompt in prompts) - STEPS
    ids, segments = (np.zeros((len(prompts), longest), np.int32) for _ in range(2))
    for number, prompt in enumerate(prompts):
        length = len(prompt) - STEPS
        ids[number, :length], segments[number, :length] = prompt[:length], 1
    with model.decoders.lend(len(prompts), longest + STEPS) as decoder:
        logits = [decoder.prefill({"input_ids": ids, "segment_ids": segments})]
        for step in range(STEPS):
            logits.append(decoder.step(np.array([prompt[len(prompt) - STEPS + step] for prompt in prompts])))
    return np.stack(logits, 1)


def difference(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.sqrt(np.square(found - expected).mean() / np.square(expected).mean()))


def test_cached_is_uncached_and_a_row_is_the_row_alone(model):
    together = decoded(model, rows())
    ms.set_context(mode=ms.PYNATIVE_MODE)
    for number, row in enumerate(rows()):
        whole = model(Tensor(row[None])).asnumpy()[0, -STEPS - 1 :]
        assert difference(together[number], whole) < EXACT
        assert difference(together[number], np.roll(whole, 1, axis=0)) > 0.01  # the measure sees a shift by one token
    alone = decoded(model, [rows()[0]])
    assert difference(together[0], alone[0]) < EXACT
