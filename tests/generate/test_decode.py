"""Prefill in chunks and cached decoding, against torch_ref and against themselves."""

from __future__ import annotations

import mindspore as ms
import numpy as np
import pytest
import torch
from mindspore.nn.utils import no_init_parameters

from ms_impl import families
from ms_impl.errors import InputError
from ms_impl.generate.decode import WIDEST, DecoderPool, cache_columns, chunks
from ms_impl.kernels.build import library
from ms_impl.qwenvl.config import QwenVLConfig
from ms_impl.qwenvl.model import QwenVL
from ms_impl.qwenvl.template import QwenVLTemplate
from ms_impl.weights import load_weights
from torch_ref.qwenvl.model import QwenVL as Reference

NEW_TOKENS = 16


def read(directory) -> QwenVL:
    with no_init_parameters():
        model = QwenVL(QwenVLConfig.from_file(directory))
    load_weights(model, directory, families.get("qwenvl"))
    return model


@pytest.fixture(scope="module")
def model(mini):
    ms.set_context(mode=ms.PYNATIVE_MODE)
    return read(mini)


@pytest.fixture(scope="module")
def reference(mini):
    return Reference.from_pretrained(mini)


def random_batch(config: QwenVLConfig, lengths: list[int], images: int = 0) -> dict[str, np.ndarray]:
    """Rows of random tokens padded on the left, with that many random images about the middle of the last row."""
    generator, width = np.random.default_rng(0), max(lengths)
    ids = generator.integers(0, config.image_start_id, (len(lengths), width), dtype=np.int32)
    segments = np.array([[int(column >= width - length) for column in range(width)] for length in lengths], np.int32)
    batch = {"input_ids": ids, "segment_ids": segments}
    if images:
        size, queries = config.visual.image_size, config.num_queries
        batch["images"] = np.zeros((len(lengths), images, 3, size, size), np.float32)
        batch["images"][-1] = generator.normal(size=batch["images"][-1].shape)
        batch["image_context_pos"] = np.full((len(lengths), images, queries), width, np.int32)
        batch["image_context_pos"][-1] = width // 2 - 24 + np.arange(images * queries).reshape(images, queries)
    return batch


def decode(model: QwenVL, batch, tokens: np.ndarray) -> np.ndarray:
    """Logits [B, N + 1, vocab] before each and after the last of ``tokens`` [B, N]."""
    columns = max(batch["input_ids"].shape[1] + tokens.shape[1], 200)  # few sizes: each is compiled
    with model.decoders.lend(len(tokens), columns) as decoder:
        return np.stack(
            [decoder.prefill(batch, QwenVLTemplate.kinds), *(decoder.step(column) for column in tokens.T)], 1
        )


def expected(reference: Reference, batch) -> tuple[np.ndarray, np.ndarray]:
    arrays = {name: torch.from_numpy(array) for name, array in batch.items()}
    tokens, logits = reference.greedy(max_new_tokens=NEW_TOKENS, **arrays)
    return tokens.numpy(), logits.numpy()


def relative_error(found: np.ndarray, wanted: np.ndarray) -> float:
    return float(np.sqrt(np.square(found - wanted).mean() / np.square(wanted).mean()))


@pytest.mark.parametrize(
    "lengths, images",
    [([120], 0), ([129], 0), ([1030], 2), ([130, 20, 100], 1)],
    ids=["decoding across seq_length", "past seq_length", "two images in three chunks", "left padding"],
)
def test_logits_equal_the_reference(model, reference, lengths, images):
    compare(model, reference, random_batch(model.config, lengths, images))


@pytest.mark.slow
@pytest.mark.parametrize("length", [505, 513])
def test_logits_of_the_golden_model_about_its_seq_length(golden_dir, length):
    model = read(golden_dir)
    compare(model, Reference.from_pretrained(golden_dir), random_batch(model.config, [length]))


def compare(model: QwenVL, reference: Reference, batch) -> None:
    tokens, logits = expected(reference, batch)
    found = decode(model, batch, tokens)
    assert (found[:, :-1].argmax(-1) == tokens).all()
    long = batch["input_ids"].shape[1] + NEW_TOKENS > model.config.seq_length
    assert relative_error(found, logits) <= (1e-3 if long else 5e-5)


def test_decoding_keeps_the_factor_of_the_prefill(model):
    batch = random_batch(model.config, [120])
    tokens = np.zeros((1, NEW_TOKENS), np.int32)
    ids = np.concatenate((batch["input_ids"], tokens), 1)
    longer = {"input_ids": ids, "segment_ids": np.ones_like(ids)}
    cached, afresh = decode(model, batch, tokens)[:, -1], decode(model, longer, tokens[:, :0])[:, -1]
    assert relative_error(cached, afresh) > 1e-2


def test_a_row_does_not_depend_on_the_rows_beside_it(model):
    batch = random_batch(model.config, [130, 130, 130])
    tokens = np.arange(3, dtype=np.int32).repeat(2).reshape(3, 2)
    together = decode(model, batch, tokens)
    alone = decode(model, {name: array[1:2] for name, array in batch.items()}, tokens[1:2])
    assert relative_error(together[1:2], alone) <= 5e-5


@pytest.mark.parametrize("mode", [ms.GRAPH_MODE, ms.PYNATIVE_MODE])
def test_new_weights_count_in_either_mode_and_the_mode_stays(model, mode):
    """What ``ms.jit`` does not do in PyNative mode: use the weights of now."""
    ms.set_context(mode=mode)
    batch, nothing = random_batch(model.config, [70]), np.zeros((1, 0), np.int32)
    before, weight = decode(model, batch, nothing), model.lm_head.weight
    values = weight.asnumpy().copy()
    weight.set_data(ms.Tensor(values * 2))
    np.testing.assert_allclose(decode(model, batch, nothing), before * 2, rtol=1e-5)
    weight.set_data(ms.Tensor(values))
    assert ms.get_context("mode") == mode
    ms.set_context(mode=ms.PYNATIVE_MODE)


def test_the_cache_is_clean_for_the_next_batch(model):
    """A shorter batch after a longer one in the same cache, and one after logits that were not finite."""
    long, short = random_batch(model.config, [140]), random_batch(model.config, [70])
    nothing = np.zeros((1, 0), np.int32)
    first = decode(model, short, nothing)
    decode(model, long, nothing)
    np.testing.assert_array_equal(decode(model, short, nothing), first)
    good = model.transformer.wte.weight.asnumpy().copy()
    model.transformer.wte.weight.set_data(ms.Tensor(np.full_like(good, np.nan)))
    with pytest.raises(InputError, match="not finite"):
        decode(model, long, nothing)
    model.transformer.wte.weight.set_data(ms.Tensor(good))
    np.testing.assert_array_equal(decode(model, short, nothing), first)


def test_training_mode_is_left_and_entered_again(model):
    batch, nothing = random_batch(model.config, [140]), np.zeros((1, 0), np.int32)
    evaluated = decode(model, batch, nothing)
    model.set_train(True)
    try:
        with DecoderPool(model).lend(1, 200) as decoder:  # compiled afresh
            np.testing.assert_array_equal(decoder.prefill(batch), evaluated[:, 0])
        assert model.training and model.transformer.h[0].training
    finally:
        model.set_train(False)


def test_prompts_and_batches_of_similar_size_share_their_graphs(model):
    pool = DecoderPool(model)
    for rows, columns in ((1, 129), (1, 200), (3, 256), (4, 140)):
        with pool.lend(rows, columns):
            pass
    assert list(pool.idle) == [(1, 256), (4, 256)]


def test_a_cache_holds_what_is_asked_for_at_little_more():
    sizes = {columns: cache_columns(columns) for columns in range(1, 9000)}
    assert set(sizes.values()) == {64, 128, 256, 512, 1024, 1536, 2048, 3072, 4096, 6144, 8192, 12288}
    assert all(columns <= size for columns, size in sizes.items())
    assert all(size < 1.51 * columns for columns, size in sizes.items() if columns > 1024)


def test_a_decoder_lent_out_is_nobody_elses(model):
    with model.decoders.lend(1, 100) as first, model.decoders.lend(1, 100) as second:
        assert first is not second


@pytest.mark.parametrize("capacity", [50, 64, 200, 512, 1000, 1024, 1536, 4096])
def test_chunks_cover_every_column_and_stay_in_the_cache(capacity):
    for length in range(1, capacity + 1):
        covered = set()
        for start, width in chunks(length, capacity):
            assert 0 <= start <= len(covered) and start + width <= capacity and width <= WIDEST
            covered |= set(range(start, start + width))
        assert covered >= set(range(length))
        assert len({width for _, width in chunks(length, capacity)}) <= 2


@pytest.mark.skipif(library("linear") is None, reason="no C++ compiler here, or kernels are switched off")
@pytest.mark.parametrize("length, steps", [(300, 1), (600, 2), (400, 2)])
def test_a_short_last_chunk_is_computed_with_the_one_before_it(model, monkeypatch, length, steps):
    """To the bit: so are keys and values that are kept of it for other prompts."""
    batch, found = random_batch(model.config, [length]), []
    for joined in (128, 0):
        monkeypatch.setattr("ms_impl.generate.decode.JOINED", joined)
        with model.decoders.lend(1, length) as decoder:
            logits = list(decoder.prefilling(batch, QwenVLTemplate.kinds))
            kept = [layer.columns(0, 0, length) for layer in decoder.cache]
            found.append((logits[-1].copy(), [(keys.copy(), values.copy()) for keys, values in kept]))
        assert len(logits) == (steps if joined else -(-length // WIDEST))
    for mine, theirs in zip(*map(flat, found)):
        np.testing.assert_array_equal(mine, theirs)


def flat(found: tuple[np.ndarray, list[tuple[np.ndarray, np.ndarray]]]) -> list[np.ndarray]:
    logits, columns = found
    return [logits, *(array for pair in columns for array in pair)]


def test_more_than_the_model_takes_is_refused_with_the_numbers(model):
    with pytest.raises(InputError, match="1101 tokens.*1100"):
        model.decoders.lend(1, 1101)
