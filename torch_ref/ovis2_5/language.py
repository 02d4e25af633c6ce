"""Ovis2.5's language model in PyTorch: Qwen3 (Hugging Face's ``Qwen3ForCausalLM``)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from ms_impl.ovis2_5.config import LlmConfig
from torch_ref.decoder import CausalDecoder, DecoderShape


class LanguageModel(nn.Module):
    """A decoder with norms on query and key heads, and its head, which may be the embedding itself."""

    def __init__(self, config: LlmConfig):
        super().__init__()
        shape = DecoderShape(
            config.hidden_size, config.intermediate_size, config.num_attention_heads, config.num_key_value_heads,
            config.head_dim, config.rms_norm_eps, qk_norm=True,
        )  # fmt: skip
        self.model = CausalDecoder(shape, config.num_hidden_layers, config.vocab_size, config.rope_theta)
        tied = config.tie_word_embeddings
        self.lm_head = None if tied else nn.Linear(config.hidden_size, config.vocab_size, bias=False)

    def head_weight(self) -> Tensor:
        """[vocab, D]: of the head, or of the embedding where they are one."""
        return self.model.embed_tokens.weight if self.lm_head is None else self.lm_head.weight

    def logits(self, hidden: Tensor) -> Tensor:
        """[…, D] → […, vocab]."""
        return F.linear(hidden, self.head_weight())
