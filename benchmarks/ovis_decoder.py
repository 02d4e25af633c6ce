"""Ovis2.5's decoder for decode.py: two layers of the 2B's width, its head the embedding, 118 million parameters."""

from __future__ import annotations

import mindspore as ms
import torch
from gqa_decoder import attend

import torch_ref.decoder
from ms_impl.ovis2_5.config import Ovis2_5Config
from ms_impl.ovis2_5.model import Ovis2_5
from torch_ref.ovis2_5.model import Ovis2_5 as Reference

CONFIG = Ovis2_5Config.from_dict({
    "model_type": "ovis2_5", "conversation_formatter_class": "Qwen3ConversationFormatter", "hidden_size": 2048,
    "visual_vocab_size": 64,
    "llm_config": {
        "model_type": "qwen3", "vocab_size": 8192, "hidden_size": 2048, "intermediate_size": 6144,
        "num_hidden_layers": 2, "num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 128,
        "max_position_embeddings": 4096, "tie_word_embeddings": True,
    },
    "vit_config": {
        "model_type": "siglip2_navit", "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1,
        "num_attention_heads": 2, "image_size": 64, "patch_size": 16,
    },
})  # fmt: skip


class OvisReference(Reference):
    """torch_ref's model, one token at a time; it attends by PyTorch's own operator, which copies no keys."""

    def __init__(self) -> None:
        torch_ref.decoder.attend = attend
        super().__init__(CONFIG)
        for parameter in self.parameters():  # a deviation that keeps every activation near 1
            torch.nn.init.normal_(parameter, 1.0 if parameter.ndim == 1 else 0.0, 0.02)

    def new_cache(self, batch: int, length: int) -> list:
        return self.llm.model.new_cache(batch, length)

    def token_step(self, segments: torch.Tensor, column: int, prompt: int, cache: list) -> torch.Tensor:
        """Logits [B, vocab] after a token in ``column``, which is its id and position, too."""
        decoder, ids = self.llm.model, torch.full((len(segments), 1), column)
        hidden = decoder.step(decoder.embed(ids), segments, torch.tensor([column]), ids, cache)
        return self.llm.logits(hidden)[:, 0]


def ovis_decoder(compute_dtype: ms.Type, dtype: ms.Type) -> Ovis2_5:
    """The same in MindSpore."""
    return Ovis2_5(CONFIG, compute_dtype, dtype)
