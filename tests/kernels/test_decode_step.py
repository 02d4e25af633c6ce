"""The kernel for one decoding step against the same step from MindSpore's operators."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import mindspore as ms
import numpy as np
import pytest
from mindspore import nn
from mindspore.nn.utils import no_init_parameters

from ms_impl.cells.lora import LoraLinear
from ms_impl.generate.decode import Decoder, TokenStep
from ms_impl.kernels.build import library
from ms_impl.kernels.decode_step import KERNEL, FusedTokenStep, fused_token_step
from ms_impl.qwenvl.config import QwenVLConfig, VisionConfig
from ms_impl.qwenvl.model import QwenVL

pytestmark = pytest.mark.skipif(library(KERNEL) is None, reason="no C++ compiler here, or kernels are switched off")

STEPS, TOLERANCE, TOLERANCE_FP16 = 4, 1e-5, 5e-3
SEQ_LENGTH = 64
VISION = VisionConfig(
    heads=2, image_size=28, image_start_id=200, layers=1, mlp_ratio=2.0, output_dim=128, patch_size=14, width=32,
    n_queries=4, n_positions=4,
)  # fmt: skip
# Neither the 101 features of the feed-forward layer nor the 211 of the head fill whole vectors.
CONFIG = QwenVLConfig(
    vocab_size=211, hidden_size=128, num_hidden_layers=2, num_attention_heads=4, kv_channels=32, intermediate_size=202,
    seq_length=SEQ_LENGTH, max_position_embeddings=512, visual=VISION,
)  # fmt: skip
DTYPES = {"fp32": ms.float32, "bf16": ms.bfloat16, "fp16": ms.float16}


@cache
def random_model(compute: str, dtype: str) -> QwenVL:
    ms.set_context(mode=ms.PYNATIVE_MODE)
    with no_init_parameters():
        model = QwenVL(CONFIG, DTYPES[compute], DTYPES[dtype])
    generator = np.random.default_rng(0)
    for parameter in model.get_parameters():
        values = generator.normal(scale=0.2, size=parameter.shape)
        parameter.set_data(ms.Tensor(values.astype(np.float32), parameter.dtype))
    return model.set_train(False)


@pytest.fixture
def model() -> QwenVL:
    return random_model("fp32", "fp32")


@contextmanager
def prepared(model: QwenVL, lengths: list[int]) -> Iterator[Decoder]:
    """A decoder that has read random prompts of these lengths, padded on the left."""
    width = max(lengths)
    ids = np.random.default_rng(1).integers(0, 200, (len(lengths), width)).astype(np.int32)
    segments = (np.arange(width) >= width - np.array(lengths)[:, None]).astype(np.int32)
    with model.decoders.lend(len(lengths), 2 * SEQ_LENGTH) as decoder:
        decoder.prefill({"input_ids": ids, "segment_ids": segments})
        yield decoder


plain_step = cache(TokenStep)  # each is compiled


def fused(decoder: Decoder, count: int = STEPS) -> np.ndarray:
    """Logits [count, B, vocab] of steps that all take fixed tokens."""
    assert isinstance(decoder.token_step, FusedTokenStep)
    return steps(decoder, count)


def plain(decoder: Decoder, count: int = STEPS) -> np.ndarray:
    """The same from MindSpore's operators."""
    return steps_with(plain_step(decoder.model, decoder.cache), decoder, count)


def steps_with(token_step: FusedTokenStep | TokenStep, decoder: Decoder, count: int = STEPS) -> np.ndarray:
    own, decoder.token_step = decoder.token_step, token_step
    try:
        return steps(decoder, count)
    finally:
        decoder.token_step = own


def steps(decoder: Decoder, count: int) -> np.ndarray:
    rows = np.arange(decoder.batch_rows)
    return np.stack([decoder.step((decoder.columns[rows, 0] * 31 + rows * 7) % 200) for _ in range(count)])


def error(found: np.ndarray, expected: np.ndarray) -> float:
    return np.abs(found - expected).max() / np.abs(expected).max()


def error_of_kernel(model: QwenVL, lengths: list[int]) -> float:
    with prepared(model, lengths) as decoder:
        found = fused(decoder)
        decoder.rewind()
        return error(found, plain(decoder))


@pytest.mark.parametrize(
    "lengths",
    [[SEQ_LENGTH - 2], [30, 7, 21], [9, 70, 40, 3, 33, 64, 50, 12]],
    ids=["one row across seq_length", "left padding, a row unused", "eight rows past seq_length"],
)
def test_logits_equal_those_of_the_plain_step(model, lengths):
    assert error_of_kernel(model, lengths) <= TOLERANCE


@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_weights_of_16_bits_count_as_they_are_rounded(dtype):
    assert error_of_kernel(random_model("fp32", dtype), [30, 7, 21]) <= TOLERANCE


def test_fp16_throughout_is_as_near_to_fp32_as_its_cache_allows():
    lengths = [30, 7, 21]
    half, single = random_model("fp16", "fp16"), random_model("fp32", "fp16")
    with prepared(half, lengths) as found, prepared(single, lengths) as expected:
        assert TOLERANCE < error(fused(found), plain(expected)) <= TOLERANCE_FP16


def test_both_steps_share_the_cache(model):
    lengths = [30, 7, 21]
    with prepared(model, lengths) as decoder:
        expected = plain(decoder, 4)
    with prepared(model, lengths) as decoder:
        mixed = np.concatenate((fused(decoder, 2), plain(decoder, 1), fused(decoder, 1)))
    assert error(mixed, expected) <= TOLERANCE


def test_new_weights_count(model):
    weight = model.lm_head.weight
    values = weight.asnumpy().copy()
    with prepared(model, [20]) as decoder:
        before = fused(decoder)
        decoder.rewind()
        weight.set_data(ms.Tensor(values * 2))
        after = fused(decoder)
    weight.set_data(ms.Tensor(values))
    np.testing.assert_array_equal(after, before * 2)


def test_a_row_does_not_feel_its_neighbours(model):
    with prepared(model, [30, 30, 30]) as three, prepared(model, [30]) as one:
        one.segments[:] = three.segments[:1]
        for alone, together in zip(one.cache.get_parameters(), three.cache.get_parameters(), strict=True):
            alone.set_data(ms.Tensor(together.asnumpy()[: alone.shape[0]]))
        first = np.stack([one.step(np.array([5])), one.step(np.array([6]))])
        beside = np.stack([three.step(np.array([5, 90, 17])), three.step(np.array([6, 44, 3]))])
    np.testing.assert_array_equal(beside[:, :1], first)


def test_control_a_kernel_that_takes_the_other_matrix_for_the_gate_is_found_out(model):
    swapped = random_model.__wrapped__("fp32", "fp32")
    mlp = swapped.transformer.h[0].mlp
    w1, w2 = mlp.w1.weight.asnumpy().copy(), mlp.w2.weight.asnumpy().copy()
    mlp.w1.weight.set_data(ms.Tensor(w2))
    mlp.w2.weight.set_data(ms.Tensor(w1))
    with prepared(model, [30, 7, 21]) as decoder:
        found = steps_with(FusedTokenStep(swapped.decoder_parts(), decoder.cache, library(KERNEL)), decoder)
        decoder.rewind()
        assert error(found, plain(decoder)) > 100 * TOLERANCE


def test_control_padding_that_is_attended_to_is_found_out(model):
    with prepared(model, [30, 7, 21]) as decoder:
        expected = plain(decoder)
        decoder.rewind()
        decoder.segments[1, :30] = 1
        assert error(fused(decoder), expected) > 100 * TOLERANCE


def test_with_an_adapter_the_plain_step_is_taken(model):
    attention = model.transformer.h[1].attn
    adapted = attention.c_attn
    a, b = np.zeros((2, 128), np.float32), np.zeros((3 * 128, 2), np.float32)
    attention.c_attn = LoraLinear(adapted, a, b, 1.0, nn.Identity())
    try:
        assert fused_token_step(model.decoder_parts(), model.new_cache(1, 64)) is None
    finally:
        attention.c_attn = adapted
    assert fused_token_step(model.decoder_parts(), model.new_cache(1, 64)) is not None


def test_log_n_of_one_position_is_log_n_to_the_bit(model):
    # Of the last three, C's 32-bit logarithm and the rounded 64-bit one differ.
    for position in (SEQ_LENGTH - 1, SEQ_LENGTH, 300, 511, 1578, 3099, 4934):
        rows = np.array([[position], [0]], np.int32)
        wanted = [model.log_n(ms.Tensor(row[None])).asnumpy().item() for row in rows]
        assert model.host_log_n(rows).ravel().tolist() == wanted
