"""A decoder in the shape of a Qwen2 with 16 query heads and 2 key heads, in PyTorch and here, for decode.py."""

from __future__ import annotations

from types import SimpleNamespace

import mindspore as ms
import numpy as np
import torch
import torch.nn.functional as F
from mindspore import Tensor, nn

import torch_ref.decoder
from ms_impl.cells.causal_decoder import CausalDecoder
from ms_impl.cells.decoder import DecoderShape
from ms_impl.cells.linear import Linear
from ms_impl.generate.decoder_model import DecoderParts, Rotary
from ms_impl.generate.mixin import GenerationMixin

VOCABULARY, LAYERS, BASE = 8192, 2, 1e6
SHAPE = {"hidden_size": 2048, "intermediate_size": 5504, "heads": 16, "kv_heads": 2, "head_dim": 128, "qkv_bias": True}


def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, visible: torch.Tensor) -> torch.Tensor:
    """What torch_ref's ``attend`` computes, by PyTorch's own operator, which copies no keys."""
    return F.scaled_dot_product_attention(q, k, v, attn_mask=visible, enable_gqa=True)


class GqaReference(torch.nn.Module):
    """PyTorch, eager, with a preallocated cache."""

    def __init__(self) -> None:
        super().__init__()
        torch_ref.decoder.attend = attend
        shape = torch_ref.decoder.DecoderShape(**SHAPE)
        self.model = torch_ref.decoder.CausalDecoder(shape, LAYERS, VOCABULARY, BASE)
        self.lm_head = torch.nn.Linear(shape.hidden_size, VOCABULARY, bias=False)
        for parameter in self.parameters():  # a deviation that keeps every activation near 1
            torch.nn.init.normal_(parameter, 1.0 if parameter.ndim == 1 else 0.0, 0.02)

    def new_cache(self, batch: int, length: int) -> list:
        return self.model.new_cache(batch, length)

    def token_step(self, segments: torch.Tensor, column: int, prompt: int, cache: list) -> torch.Tensor:
        """Logits [B, vocab] after a token in ``column``, which is its id and position, too."""
        ids = torch.full((len(segments), 1), column)
        hidden = self.model.step(self.model.embed(ids), segments, torch.tensor([column]), ids, cache)
        return self.lm_head(hidden)[:, 0]


class GqaDecoder(GenerationMixin, nn.Cell):
    """The same as a ``DecoderModel``; parameters carry the reference's names."""

    def __init__(self, compute_dtype: ms.Type, dtype: ms.Type):
        super().__init__()
        self.compute_dtype = compute_dtype
        self.config = SimpleNamespace(max_position_embeddings=4096, vocab_size=VOCABULARY)
        shape = DecoderShape(**SHAPE)
        self.model = CausalDecoder(shape, LAYERS, VOCABULARY, BASE, None, compute_dtype, dtype)
        self.lm_head = Linear(shape.hidden_size, VOCABULARY, bias=False, dtype=dtype)

    def embed(self, input_ids: Tensor, media: tuple = ()) -> Tensor:
        return self.model.embed(input_ids, media)

    def rotary(self, position_ids: np.ndarray, length: int) -> Rotary:
        return *self.model.rotary(position_ids), None

    def new_cache(self, batch: int, length: int) -> nn.CellList:
        return self.model.new_cache(batch, length)

    def step(self, hidden, segment_ids, columns, cos, sin, q_scale, cache, last) -> Tensor:
        states = self.model.step(hidden, segment_ids, columns, cos, sin, cache)
        return self.model.last_logits(states, last, self.lm_head)

    def decoder_parts(self) -> DecoderParts | None:
        return self.model.parts(self.lm_head)
