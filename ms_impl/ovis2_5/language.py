"""Ovis2.5's language model in MindSpore: Qwen3 (Hugging Face's ``Qwen3ForCausalLM``)."""

from __future__ import annotations

import mindspore as ms
from mindspore import Parameter, Tensor, nn

from ms_impl.cells.causal_decoder import CausalDecoder
from ms_impl.cells.decoder import DecoderShape
from ms_impl.cells.linear import Linear, linear
from ms_impl.ovis2_5.config import LlmConfig


class LanguageModel(nn.Cell):
    """A decoder with norms on query and key heads, and its head, which may be the embedding itself."""

    def __init__(self, config: LlmConfig, compute_dtype: ms.Type, dtype: ms.Type):
        super().__init__()
        shape = DecoderShape(
            config.hidden_size, config.intermediate_size, config.num_attention_heads, config.num_key_value_heads,
            config.head_dim, config.rms_norm_eps, qk_norm=True,
        )  # fmt: skip
        self.model = CausalDecoder(
            shape, config.num_hidden_layers, config.vocab_size, config.rope_theta, None, compute_dtype, dtype
        )
        tied = config.tie_word_embeddings
        self.lm_head = None if tied else Linear(config.hidden_size, config.vocab_size, bias=False, dtype=dtype)

    def head_weight(self) -> Parameter:
        """[vocab, D]: of the head, or of the embedding where they are one."""
        return self.model.embed_tokens.weight if self.lm_head is None else self.lm_head.weight

    def logits(self, hidden: Tensor) -> Tensor:
        """[…, D] → […, vocab]."""
        return linear(hidden, self.model.embed_tokens.weight) if self.lm_head is None else self.lm_head(hidden)
