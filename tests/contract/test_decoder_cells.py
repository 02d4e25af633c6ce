"""The shared decoder cells on both new families' vectors: the logits of every case, its features laid over columns.

Features come from the contract's numpy towers; everything behind them is ms_impl's.
"""

from pathlib import Path

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, nn
from omni import Omni
from ovis import ATOM, INDICATORS, Ovis

from ms_impl.cells.causal_decoder import CausalDecoder
from ms_impl.cells.decoder import DecoderShape
from ms_impl.cells.linear import Linear, linear

GOLDEN = Path(__file__).parents[1] / "golden"
COLUMNS, FEATURES = 288, 272  # no case has more
# rms(difference) / rms(golden); seen: 2.0e-6 and 1.9e-3, where rounding a number once is 3e-8 and 2.4e-4.
TOLERANCE = {ms.float32: 1e-5, ms.float16: 5e-3}


class Decoder(nn.Cell):
    """A causal language model by the shared decoder, its head tied or not."""

    def __init__(self, shape: DecoderShape, layers: int, vocabulary: int, base: float, sections, tied: bool, dtype):
        super().__init__()
        self.model = CausalDecoder(shape, layers, vocabulary, base, sections, dtype, dtype)
        self.lm_head = None if tied else Linear(shape.hidden_size, vocabulary, bias=False, dtype=dtype)

    def construct(self, input_ids, position_ids, segment_ids, features, columns):
        hidden = self.model(self.model.embed(input_ids, ((features, columns),)), segment_ids, position_ids)
        return linear(hidden, self.model.embed_tokens.weight) if self.lm_head is None else self.lm_head(hidden)


def omni_decoder(omni: Omni, dtype, sections=None) -> Decoder:
    text = omni.config["text_config"]
    heads = text["num_attention_heads"]
    shape = DecoderShape(
        text["hidden_size"], text["intermediate_size"], heads, text["num_key_value_heads"],
        text["hidden_size"] // heads, text["rms_norm_eps"], qkv_bias=True,
    )  # fmt: skip
    sections = sections or text["rope_scaling"]["mrope_section"]
    model = Decoder(
        shape, text["num_hidden_layers"], text["vocab_size"], text["rope_theta"], sections, False, dtype
    ).set_train(False)
    return filled(model, omni.weights, "")


def ovis_decoder(ovis: Ovis, dtype) -> Decoder:
    text = ovis.config["llm_config"]
    shape = DecoderShape(
        text["hidden_size"], text["intermediate_size"], text["num_attention_heads"], text["num_key_value_heads"],
        text["head_dim"], text["rms_norm_eps"], qk_norm=True,
    )  # fmt: skip
    model = Decoder(
        shape, text["num_hidden_layers"], text["vocab_size"], text["rope_theta"], None, True, dtype
    ).set_train(False)
    return filled(model, ovis.weights, "llm.")


def filled(model: Decoder, weights, prefix: str) -> Decoder:
    """The model with the checkpoint's weights: every parameter has Hugging Face's name below ``prefix``."""
    for name, parameter in model.parameters_dict().items():
        values = weights[prefix + name]
        assert values.shape == parameter.shape, name
        parameter.set_data(Tensor(values.astype(np.float32)).astype(parameter.dtype))
    return model


def run(model: Decoder, ids, positions, segments, features, columns, dtype) -> np.ndarray:
    """One sequence as a batch of one, padded to ``COLUMNS``, so that one graph serves all; logits [T, vocabulary]."""
    behind, missing = COLUMNS - len(ids), FEATURES - len(columns)
    arrays = (np.pad(array, [*[(0, 0)] * (np.ndim(array) - 1), (0, behind)]) for array in (ids, positions, segments))
    batch = [array[None].astype(np.int32) for array in arrays]
    laid = np.pad(columns, (0, missing), constant_values=COLUMNS)[None].astype(np.int32)  # absent features: column T
    merged = Tensor(np.pad(features, ((0, missing), (0, 0)))[None].astype(np.float32)).astype(dtype), Tensor(laid)
    return model(*map(Tensor, batch), *merged).asnumpy().astype(np.float64)[0, : len(ids)]


def omni_features(omni: Omni, ids: np.ndarray, told: dict) -> tuple[np.ndarray, np.ndarray]:
    """The features of all kinds [F, D] and their columns [F], read off the merged embeddings."""
    tokens = [omni.config[name] for name in ("image_token_index", "video_token_index", "audio_token_index")]
    columns = np.flatnonzero(np.isin(ids, tokens))
    return omni.embeddings(ids, told)[columns], columns


def error(found: np.ndarray, golden: np.ndarray) -> float:
    return float(np.sqrt(np.square(found - golden).mean() / np.square(golden).mean()))


@pytest.fixture(scope="module")
def omni() -> Omni:
    return Omni(GOLDEN / "qwen2_5_omni_tiny")


@pytest.fixture(scope="module")
def ovis() -> Ovis:
    return Ovis(GOLDEN / "ovis2_5_tiny")


@pytest.fixture(scope="module", params=[ms.GRAPH_MODE, ms.PYNATIVE_MODE], ids=["graph", "pynative"])
def mode(request):
    ms.set_context(mode=request.param)
    yield request.param
    ms.set_context(mode=ms.PYNATIVE_MODE)


@pytest.fixture(scope="module", params=[ms.float32, ms.float16], ids=["fp32", "fp16"])
def dtype(request, mode):
    return request.param


OMNI_CASES = ("text", "image", "audio_image", "av")  # one length each; two of them have positions on three axes


@pytest.mark.slow_for("fp16-graph")  # as in tests/parity
def test_omni_logits(omni, dtype):
    model = omni_decoder(omni, dtype)
    for case in OMNI_CASES:
        told, name = omni.told["logits"][case], f"logits.{case}"
        ids, positions = omni.cases[f"{name}.input_ids"][0], omni.cases[f"{name}.position_ids"][:, 0]
        found = run(model, ids, positions, np.ones_like(ids), *omni_features(omni, ids, told), dtype)
        assert error(found, omni.cases[f"{name}.logits"][0]) < TOLERANCE[dtype], case


def test_omni_packed_rows_keep_to_their_segments(omni, mode):
    told = omni.told["packing"]["image_text"]
    ids, positions = omni.cases["packing.image_text.input_ids"][0], omni.cases["packing.image_text.position_ids"][1:, 0]
    segments = np.repeat(np.arange(1, len(told["lengths"]) + 1), told["lengths"])
    model, golden = omni_decoder(omni, ms.float32), omni.cases["packing.image_text.logits_packed"][0]
    features = omni_features(omni, ids, told)
    assert error(run(model, ids, positions, segments, *features, ms.float32), golden) < TOLERANCE[ms.float32]
    assert error(run(model, ids, positions, np.ones_like(ids), *features, ms.float32), golden) > 0.01


def test_sections_in_another_order_are_wrong(omni):
    told, name = omni.told["logits"]["image"], "logits.image"
    ids, positions = omni.cases[f"{name}.input_ids"][0], omni.cases[f"{name}.position_ids"][:, 0]
    model = omni_decoder(omni, ms.float32, omni.config["text_config"]["rope_scaling"]["mrope_section"][::-1])
    found = run(model, ids, positions, np.ones_like(ids), *omni_features(omni, ids, told), ms.float32)
    assert error(found, omni.cases[f"{name}.logits"][0]) > 0.01


@pytest.mark.slow_for("fp16-graph")  # as in tests/parity
@pytest.mark.parametrize("case", ["text", "two"])
def test_ovis_logits(ovis, dtype, case):
    ids = ovis.cases[f"{case}.input_ids"][0].astype(np.int64)
    columns = np.flatnonzero(np.isin(ids, (ATOM, *INDICATORS)))
    model = ovis_decoder(ovis, dtype)
    golden = ovis.cases[f"{case}.embeds"][0]
    found = run(model, np.maximum(ids, 0), np.arange(len(ids)), np.ones_like(ids), golden[columns], columns, dtype)
    assert error(found, ovis.cases[f"{case}.logits"][0]) < TOLERANCE[dtype]


def test_a_row_of_a_batch_has_the_bits_of_the_row_alone(omni, mode):
    model = omni_decoder(omni, ms.float32)
    ids = omni.cases["logits.text.input_ids"][0]
    other = np.random.default_rng(0).permutation(ids)
    rows = [(row, np.tile(np.arange(len(ids)), (3, 1)), np.ones_like(ids)) for row in (ids, other)]
    batch = [Tensor(np.stack(part).astype(np.int32)) for part in zip(*rows)]
    width = model.model.embed_tokens.weight.shape[1]
    absent = np.zeros((2, 1, width), np.float32), np.full((2, 1), len(ids), np.int32)
    together = model(*batch, *map(Tensor, absent)).asnumpy()
    for number in range(2):
        alone = model(*(part[number : number + 1] for part in batch), *(Tensor(part[:1]) for part in absent)).asnumpy()
        np.testing.assert_array_equal(together[number], alone[0])


class Cached(nn.Cell):
    """A decoder by its cache, some columns at a time."""

    def __init__(self, decoder: CausalDecoder, length: int):
        super().__init__(auto_prefix=False)
        self.decoder = decoder
        self.cache = decoder.new_cache(1, length)

    def construct(self, x, segment_ids, columns, cos, sin):
        return self.decoder.step(x, segment_ids, columns, cos, sin, self.cache)


def test_cached_is_uncached():
    ms.set_context(mode=ms.GRAPH_MODE)
    shape, length = DecoderShape(32, 48, 4, 2, 16, qkv_bias=True, qk_norm=True), 10
    rng = np.random.default_rng(0)
    decoder = CausalDecoder(shape, 2, 8, 1e4, (2, 3, 3), ms.float32, ms.float32)
    for parameter in decoder.get_parameters():
        parameter.set_data(Tensor(rng.normal(0, 0.2, parameter.shape).astype(np.float32)))
    x = rng.normal(0, 1, (1, length, 32)).astype(np.float32)
    positions = rng.integers(0, 99, (1, 3, length)).astype(np.int32)
    expected = decoder(Tensor(x), None, Tensor(positions)).asnumpy()
    parts, turns = Cached(decoder, length), decoder.rotary(positions)
    for start, end in ((0, 7), (7, 8), (8, 9), (9, 10)):
        cos, sin = (Tensor(turn[:, :, start:end]) for turn in turns)
        found = parts(Tensor(x[:, start:end]), *columns_of(range(start, end), length), cos, sin).asnumpy()
        np.testing.assert_allclose(found, expected[:, start:end], rtol=0, atol=5e-6)


def columns_of(columns: range, length: int) -> tuple[Tensor, Tensor]:
    """Segment ids of the columns filled so far, and the columns."""
    filled_columns = (np.arange(length) < columns.stop).astype(np.int32)[None]
    return Tensor(filled_columns), Tensor(np.array(columns, np.int32))
