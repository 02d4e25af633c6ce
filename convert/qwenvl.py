"""The weight table of Qwen-VL.

Every name and layout stays Hugging Face's. Our cells compute attention from the packed projections as they are, so
that rearranging them would buy no speed, and whoever speaks of ``transformer.h.0.attn.c_attn`` (an adapter, a LoRA
configuration, a script) finds it under that name.
"""

from __future__ import annotations

from ms_impl.io.rules import MINDSPORE_COUNTERS, Sizes, WeightTable, layer_norm, linear, same
from ms_impl.qwenvl.config import QwenVLConfig


def sizes(config: QwenVLConfig) -> Sizes:
    """The words of the shapes in numbers."""
    visual = config.visual
    return {
        "vocabulary": config.vocab_size, "width": config.hidden_size, "layers": config.num_hidden_layers,
        "heads_width": config.projection_size, "qkv": 3 * config.projection_size, "ffn": config.ffn_size,
        "patch": visual.patch_size, "positions": visual.n_positions, "blocks": visual.layers,
        "visual": visual.width, "visual_qkv": 3 * visual.width, "visual_ffn": visual.mlp_width,
        "visual_heads": visual.heads, "visual_head": visual.head_dim,
        "queries": visual.n_queries, "output": visual.output_dim, "output_qkv": 3 * visual.output_dim,
    }  # fmt: skip


LAYERS = {"transformer.h": "layers", "transformer.visual.transformer.resblocks": "blocks"}
KV_PROJ = "transformer.visual.attn_pool.kv_proj.weight"
OPTIONAL = {KV_PROJ: lambda config: config.visual.has_kv_proj}

WEIGHTS = WeightTable(
    [
        *same("", {"lm_head.weight": "vocabulary width"}),
        *same("transformer", {"wte.weight": "vocabulary width", "ln_f.weight": "width"}),
        *same("transformer.h.*", {
            "ln_1.weight": "width",
            **linear("attn.c_attn", "qkv", "width"),
            "attn.c_proj.weight": "width heads_width",
            "ln_2.weight": "width",
            "mlp.w1.weight": "ffn width",
            "mlp.w2.weight": "ffn width",
            "mlp.c_proj.weight": "width ffn",
        }),
        *same("transformer.visual", {
            "conv1.weight": "visual 3 patch patch",
            "positional_embedding": "positions visual",
            **layer_norm("ln_pre", "visual"),
            **layer_norm("ln_post", "output"),
            "proj": "output output",
        }),
        *same("transformer.visual.transformer.resblocks.*", {
            **layer_norm("ln_1", "visual"),
            **linear("attn.in_proj", "visual_qkv", "visual"),
            **linear("attn.out_proj", "visual", "visual"),
            **layer_norm("ln_2", "visual"),
            **linear("mlp.c_fc", "visual_ffn", "visual"),
            **linear("mlp.c_proj", "visual", "visual_ffn"),
        }),
        *same("transformer.visual.attn_pool", {
            "query": "queries output",
            "pos_embed": "queries output",
            **layer_norm("ln_q", "output"),
            **layer_norm("ln_kv", "output"),
            "attn.in_proj_weight": "output_qkv output",
            "attn.in_proj_bias": "output_qkv",
            **linear("attn.out_proj", "output", "output"),
        }),
        *same("", {KV_PROJ: "output visual"}),
    ],
    sizes=sizes,
    layers=LAYERS,
    optional=OPTIONAL,
    harmless=(
        *MINDSPORE_COUNTERS,
        # Buffers that some versions of the original saved: tables of angles, masks.
        "transformer.rotary_emb.inv_freq",
        "transformer.h.*.attn.rotary_emb.inv_freq",
        "transformer.h.*.attn.bias",
        "transformer.h.*.attn.masked_bias",
        "transformer.h.*.attn.logn_tensor",
    ),
)  # fmt: skip
