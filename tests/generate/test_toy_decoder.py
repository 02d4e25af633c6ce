"""Decoding of a model of no family: media of several kinds, rows with columns and positions of their own."""

from __future__ import annotations

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor
from toy_decoder import KINDS, SLOTS, VOCABULARY, ToyDecoder

from ms_impl.generate.decode import TokenStep
from ms_impl.generate.features import FeatureEncoder, units_at_once
from ms_impl.kernels.build import library
from ms_impl.kernels.decode_step import KERNEL, FusedTokenStep

LENGTHS, STEPS, TOLERANCE = (70, 9, 33), 3, 2e-6  # max|difference| / max|expected|; seen: 2e-7 to 5e-7
WIDE = 128  # columns of the cache


@pytest.fixture(scope="module")
def model():
    ms.set_context(mode=ms.PYNATIVE_MODE)
    return ToyDecoder().set_train(False)


@pytest.fixture(scope="module")
def batch() -> dict[str, np.ndarray]:
    """Three rows padded on the right; tiles in the first and last, tones in the first and second; one of two absent."""
    rng, width = np.random.default_rng(0), max(LENGTHS)
    rows = len(LENGTHS)
    segments = (np.arange(width) < np.array(LENGTHS)[:, None]).astype(np.int32)
    steps = rng.integers(0, 3, (rows, 2, width))  # positions neither start at 0 nor keep to the columns
    tile_columns = np.full((rows, 2, SLOTS), width, np.int32)
    tile_columns[0, 1], tile_columns[2, 0] = (64, 3, 20), (5, 30, width)  # of the second one feature has no place
    tone_columns = np.full((rows, 2, 1), width, np.int32)
    tone_columns[0], tone_columns[1, 1] = ((40,), (1,)), (8,)
    return {
        "input_ids": rng.integers(0, VOCABULARY, (rows, width), dtype=np.int32),
        "segment_ids": segments,
        "position_ids": (np.cumsum(steps, -1) * segments[:, None]).astype(np.int32),
        "next_positions": np.array([5, 71, 40], np.int32),
        "tiles": rng.normal(size=(rows, 2, SLOTS, 5)).astype(np.float32),
        "tints": rng.integers(1, 4, (rows, 2), dtype=np.int32),
        "tile_columns": tile_columns,
        "tones": rng.normal(size=(rows, 2, 4)).astype(np.float32),
        "tone_columns": tone_columns,
    }


TOKENS = np.random.default_rng(1).integers(0, VOCABULARY, (len(LENGTHS), STEPS))


def decode(model, batch, tokens, plain: bool = False) -> np.ndarray:
    """Logits [B, STEPS + 1, vocab]."""
    with model.decoders.lend(len(tokens), WIDE) as decoder:
        if plain:
            decoder.token_step = TokenStep(model, decoder.cache)
        found = [decoder.prefill(batch, KINDS), *(decoder.step(column) for column in tokens.T)]
        del decoder.token_step
    return np.stack(found, 1)


def one_row(batch, row: int) -> dict[str, np.ndarray]:
    """A row as a batch of its own: cut to its length, with its absent columns at its own end."""
    length, whole = LENGTHS[row], max(LENGTHS)
    alone = {name: array[row : row + 1] for name, array in batch.items()}
    for name in ("input_ids", "segment_ids", "position_ids"):
        alone[name] = alone[name][..., :length]
    for kind in KINDS:
        columns = alone[kind.columns.name]
        alone[kind.columns.name] = np.where(columns == whole, length, columns)
    return alone


def uncached(model, batch, row: int, tokens) -> np.ndarray:
    """Logits [vocab] after a row's prompt and ``tokens``, in one forward pass of numpy inputs."""
    alone = one_row(batch, row)
    ids = np.concatenate((alone["input_ids"][0], tokens))
    follow = batch["next_positions"][row] + np.arange(len(tokens))
    positions = np.concatenate((alone["position_ids"][0], np.tile(follow, (2, 1))), 1)
    media = []
    for kind in KINDS:
        arrays = [Tensor(alone[array.name][0]) for array in kind.arrays]
        columns = alone[kind.columns.name]
        columns = np.where(columns == LENGTHS[row], len(ids), columns)
        media.append((getattr(model, kind.encode)(*arrays), Tensor(columns.astype(np.int32))))
    rest = np.ones_like(ids)[None], positions[None]
    given = [Tensor(array.astype(np.int32)) for array in (ids[None], *rest)]
    return model(given[0], tuple(media), *given[1:]).asnumpy()[0, -1]


def error(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.abs(found - expected).max() / np.abs(expected).max())


@pytest.mark.parametrize("plain", [False, True], ids=["kernel", "plain"])
def test_cached_is_uncached_for_rows_of_their_own_positions(model, batch, plain):
    found = decode(model, batch, TOKENS, plain)
    for row in range(len(LENGTHS)):
        for count in (0, 1, STEPS):
            expected = uncached(model, batch, row, TOKENS[row, :count])
            assert error(found[row, count], expected) <= TOLERANCE, (row, count)


def test_it_is_decoded_by_the_kernel(model):
    if library(KERNEL) is None:
        pytest.skip("no C++ compiler here, or kernels are switched off")
    with model.decoders.lend(1, WIDE) as decoder:
        assert isinstance(decoder.token_step, FusedTokenStep)


def test_a_row_of_a_batch_has_the_bits_of_the_row_alone(model, batch):
    """Prefill and kernel; the plain step's products of few rows are ordered by how many there are."""
    together = decode(model, batch, TOKENS)
    for row in range(len(LENGTHS)):
        alone = decode(model, one_row(batch, row), TOKENS[row : row + 1])
        np.testing.assert_array_equal(alone[0], together[row])


def test_control_positions_of_another_row_are_found_out(model, batch):
    found = decode(model, batch, TOKENS)
    same = {**batch, "next_positions": np.full_like(batch["next_positions"], batch["next_positions"][0])}
    wrong = decode(model, same, TOKENS)
    np.testing.assert_array_equal(wrong[:, 0], found[:, 0])
    assert error(wrong[1:, 1:], found[1:, 1:]) > 1e-3
    moved = {**batch, "tone_columns": np.where(batch["tone_columns"] == 8, 7, batch["tone_columns"])}
    assert error(decode(model, moved, TOKENS)[1], found[1]) > 1e-3


def test_a_second_answer_owes_nothing_to_the_first(model, batch):
    first = decode(model, one_row(batch, 1), TOKENS[1:2])
    decode(model, one_row(batch, 0), TOKENS[:1])
    np.testing.assert_array_equal(decode(model, one_row(batch, 1), TOKENS[1:2]), first)


def test_only_present_units_are_encoded_in_few_sizes(model, batch, monkeypatch):
    ms.set_context(mode=ms.PYNATIVE_MODE)
    sizes = []
    encode = ToyDecoder.encode_tones
    monkeypatch.setattr(ToyDecoder, "encode_tones", lambda self, tones: sizes.append(len(tones)) or encode(self, tones))
    found = FeatureEncoder(model)(batch, KINDS[1:], max(LENGTHS))
    assert sizes == [4]  # three of six, rounded up to a power of two
    assert sorted(zip(found.rows, found.columns)) == [(0, 1), (0, 40), (1, 8)]
    absent = {**batch, "tone_columns": np.full_like(batch["tone_columns"], max(LENGTHS))}
    assert FeatureEncoder(model)(absent, KINDS[1:], max(LENGTHS)) is None and sizes == [4]


def test_fewer_units_are_encoded_together_the_larger_they_are():
    assert [units_at_once(features) for features in (1, 256, 257, 600, 1024, 1025, 2352, 10**6)] == [
        8,
        8,
        4,
        2,
        2,
        1,
        1,
        1,
    ]


def test_what_a_template_does_wrong_is_told(model, batch):
    with model.decoders.lend(3, WIDE) as decoder:
        with pytest.raises(ValueError, match="no kind: tile_columns, tiles, tints"):
            decoder.prefill(batch, KINDS[1:])
        twice = {**batch, "tone_columns": np.where(batch["tone_columns"] == 40, 3, batch["tone_columns"])}
        with pytest.raises(ValueError, match="two features at one column"):
            decoder.prefill(twice, KINDS)
