"""The weight table of Ovis2.5: every name and layout stays Hugging Face's.

The 2B model's head is its token embedding, used twice, and is not stored.
"""

from __future__ import annotations

from ms_impl.io.rules import Sizes, Tie, WeightTable, layer_norm, linear, same
from ms_impl.ovis2_5.config import Ovis2_5Config


def sizes(config: Ovis2_5Config) -> Sizes:
    """The words of the shapes in numbers."""
    llm, vit = config.llm_config, config.vit_config
    return {
        "vocabulary": llm.vocab_size, "width": llm.hidden_size, "ffn": llm.intermediate_size,
        "heads": llm.attention_width, "kv_heads": llm.kv_width, "head": llm.head_dim, "layers": llm.num_hidden_layers,
        "visual": vit.hidden_size, "visual_ffn": vit.intermediate_size, "merged": vit.merged_width,
        "channels": vit.num_channels, "patch": vit.patch_size, "positions": vit.position_side**2,
        "blocks": vit.num_hidden_layers,
        "visual_vocabulary": config.visual_vocab_size, "visual_tokens": config.visual_tokens,
    }  # fmt: skip


VISION = "visual_tokenizer.vit.vision_model"

WEIGHTS = WeightTable(
    [
        *same("llm.model", {"embed_tokens.weight": "vocabulary width"}),
        *same("llm.model.layers.*", {
            "self_attn.q_proj.weight": "heads width",
            "self_attn.k_proj.weight": "kv_heads width",
            "self_attn.v_proj.weight": "kv_heads width",
            "self_attn.o_proj.weight": "width heads",
            "self_attn.q_norm.weight": "head",
            "self_attn.k_norm.weight": "head",
            "mlp.gate_proj.weight": "ffn width",
            "mlp.up_proj.weight": "ffn width",
            "mlp.down_proj.weight": "width ffn",
            "input_layernorm.weight": "width",
            "post_attention_layernorm.weight": "width",
        }),
        *same("llm", {"model.norm.weight": "width", "lm_head.weight": "vocabulary width"}),
        *same(f"{VISION}.embeddings", {
            "patch_embedding.weight": "visual channels patch patch",
            "patch_embedding.bias": "visual",
            "position_embedding.weight": "positions visual",
        }),
        *same(f"{VISION}.encoder.layers.*", {
            **layer_norm("layer_norm1", "visual"),
            **linear("self_attn.k_proj", "visual", "visual"),
            **linear("self_attn.v_proj", "visual", "visual"),
            **linear("self_attn.q_proj", "visual", "visual"),
            **linear("self_attn.out_proj", "visual", "visual"),
            **layer_norm("layer_norm2", "visual"),
            **linear("mlp.fc1", "visual_ffn", "visual"),
            **linear("mlp.fc2", "visual", "visual_ffn"),
        }),
        *same(VISION, layer_norm("post_layernorm", "visual")),  # used by nothing, and kept
        *same("visual_tokenizer.head", {"0.weight": "visual_tokens merged", **layer_norm("1", "visual_tokens")}),
        *same("vte", {"weight": "visual_vocabulary width"}),
    ],
    sizes=sizes,
    layers={"llm.model.layers": "layers", f"{VISION}.encoder.layers": "blocks"},
    ties={"llm.lm_head.weight": Tie("llm.model.embed_tokens.weight", lambda c: c.llm_config.tie_word_embeddings)},
)  # fmt: skip
