"""A decoder of no family: two kinds of media, positions on two axes, fewer key heads, biases, q/k norms, a tied head."""

from __future__ import annotations

from dataclasses import dataclass

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn

from ms_impl.cells.causal_decoder import CausalDecoder
from ms_impl.cells.decoder import DecoderShape
from ms_impl.cells.linear import Linear, linear
from ms_impl.data.sample import ArraySpec, MediaKind
from ms_impl.generate.mixin import GenerationMixin

WIDTH, VOCABULARY, SLOTS = 48, 67, 3
TILES = MediaKind(
    "tiles",
    arrays=(ArraySpec("tiles", np.float32, ("tiles", SLOTS, 5)), ArraySpec("tints", np.int32, ("tiles",))),
    columns=ArraySpec("tile_columns", np.int32, ("tiles", SLOTS), padding=None),
    encode="encode_tiles",
)
TONES = MediaKind(
    "tones",
    arrays=(ArraySpec("tones", np.float32, ("tones", 4)),),
    columns=ArraySpec("tone_columns", np.int32, ("tones", 1), padding=None),
    encode="encode_tones",
)
KINDS = (TILES, TONES)


@dataclass(frozen=True)
class ToyConfig:
    max_position_embeddings: int = 512
    vocab_size: int = VOCABULARY


class ToyDecoder(GenerationMixin, nn.Cell):
    """A ``DecoderModel``. ``encoded`` counts the units that were encoded since the graphs were compiled."""

    def __init__(self):
        super().__init__()
        self.config = ToyConfig()
        self.compute_dtype = ms.float32
        shape = DecoderShape(WIDTH, 44, 8, 2, 12, qkv_bias=True, qk_norm=True)
        self.model = CausalDecoder(shape, 2, VOCABULARY, 100.0, (2, 4), ms.float32, ms.float32)
        self.tiles = Linear(5, WIDTH)
        self.tones = Linear(4, WIDTH)
        rng = np.random.default_rng(0)
        for parameter in self.get_parameters():
            about = 1.0 if parameter.name.endswith("norm.weight") else 0.0
            parameter.set_data(Tensor((about + rng.normal(0, 0.2, parameter.shape)).astype(np.float32)))

    def encode_tiles(self, tiles: Tensor, tints: Tensor) -> Tensor:
        return self.tiles(tiles * tints.astype(ms.float32).reshape(-1, 1, 1))

    def encode_tones(self, tones: Tensor) -> Tensor:
        return self.tones(tones).expand_dims(1)

    def embed(self, input_ids: Tensor, media=()) -> Tensor:
        return self.model.embed(input_ids, media)

    def construct(self, input_ids, media, segment_ids, position_ids):
        return self.logits(self.model(self.embed(input_ids, media), segment_ids, position_ids))

    def logits(self, states: Tensor) -> Tensor:
        return linear(states, self.model.embed_tokens.weight)

    def rotary(self, position_ids: np.ndarray, length: int):
        return *self.model.rotary(position_ids), None

    def new_cache(self, batch: int, length: int) -> nn.CellList:
        return self.model.new_cache(batch, length)

    def step(self, hidden, segment_ids, columns, cos, sin, q_scale, cache, last):
        states = self.model.step(hidden, segment_ids, columns, cos, sin, cache)
        return self.model.last_logits(states, last, self.logits)

    def decoder_parts(self):
        return self.model.parts(self.model.embed_tokens)
