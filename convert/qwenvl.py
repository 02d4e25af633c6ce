"""The weight table of Qwen-VL.

Every name and layout stays Hugging Face's. Our cells compute attention from the packed projections as they are, so
that rearranging them would buy no speed, and whoever speaks of ``transformer.h.0.attn.c_attn`` (an adapter, a LoRA
configuration, a script) finds it under that name.
"""

from __future__ import annotations

from ms_impl.io.rules import MINDSPORE_COUNTERS, Module, WeightTable, same

WEIGHTS = WeightTable(
    [
        Module(
            "",
            [
                same("lm_head.weight", lambda c: (c.vocab_size, c.hidden_size)),
            ],
        ),
        Module(
            "transformer",
            [
                same("wte.weight", lambda c: (c.vocab_size, c.hidden_size)),
                same("ln_f.weight", lambda c: (c.hidden_size,)),
            ],
        ),
        Module(
            "transformer.h.{}",
            [
                same("ln_1.weight", lambda c: (c.hidden_size,)),
                same("attn.c_attn.weight", lambda c: (3 * c.projection_size, c.hidden_size)),
                same("attn.c_attn.bias", lambda c: (3 * c.projection_size,)),
                same("attn.c_proj.weight", lambda c: (c.hidden_size, c.projection_size)),
                same("ln_2.weight", lambda c: (c.hidden_size,)),
                same("mlp.w1.weight", lambda c: (c.ffn_size, c.hidden_size)),
                same("mlp.w2.weight", lambda c: (c.ffn_size, c.hidden_size)),
                same("mlp.c_proj.weight", lambda c: (c.hidden_size, c.ffn_size)),
            ],
            count=lambda c: c.num_hidden_layers,
        ),
        Module(
            "transformer.visual",
            [
                same("conv1.weight", lambda c: (c.visual.width, 3, c.visual.patch_size, c.visual.patch_size)),
                same("positional_embedding", lambda c: (c.visual.n_positions, c.visual.width)),
                same("ln_pre.weight", lambda c: (c.visual.width,)),
                same("ln_pre.bias", lambda c: (c.visual.width,)),
                same("ln_post.weight", lambda c: (c.visual.output_dim,)),
                same("ln_post.bias", lambda c: (c.visual.output_dim,)),
                same("proj", lambda c: (c.visual.output_dim, c.visual.output_dim)),
            ],
        ),
        Module(
            "transformer.visual.transformer.resblocks.{}",
            [
                same("ln_1.weight", lambda c: (c.visual.width,)),
                same("ln_1.bias", lambda c: (c.visual.width,)),
                same("attn.in_proj.weight", lambda c: (3 * c.visual.width, c.visual.width)),
                same("attn.in_proj.bias", lambda c: (3 * c.visual.width,)),
                same("attn.out_proj.weight", lambda c: (c.visual.width, c.visual.width)),
                same("attn.out_proj.bias", lambda c: (c.visual.width,)),
                same("ln_2.weight", lambda c: (c.visual.width,)),
                same("ln_2.bias", lambda c: (c.visual.width,)),
                same("mlp.c_fc.weight", lambda c: (c.visual.mlp_width, c.visual.width)),
                same("mlp.c_fc.bias", lambda c: (c.visual.mlp_width,)),
                same("mlp.c_proj.weight", lambda c: (c.visual.width, c.visual.mlp_width)),
                same("mlp.c_proj.bias", lambda c: (c.visual.width,)),
            ],
            count=lambda c: c.visual.layers,
        ),
        Module(
            "transformer.visual.attn_pool",
            [
                same("query", lambda c: (c.visual.n_queries, c.visual.output_dim)),
                same("pos_embed", lambda c: (c.visual.n_queries, c.visual.output_dim)),
                same("ln_q.weight", lambda c: (c.visual.output_dim,)),
                same("ln_q.bias", lambda c: (c.visual.output_dim,)),
                same("ln_kv.weight", lambda c: (c.visual.output_dim,)),
                same("ln_kv.bias", lambda c: (c.visual.output_dim,)),
                same("attn.in_proj_weight", lambda c: (3 * c.visual.output_dim, c.visual.output_dim)),
                same("attn.in_proj_bias", lambda c: (3 * c.visual.output_dim,)),
                same("attn.out_proj.weight", lambda c: (c.visual.output_dim, c.visual.output_dim)),
                same("attn.out_proj.bias", lambda c: (c.visual.output_dim,)),
            ],
        ),
        Module(
            "transformer.visual.attn_pool.kv_proj",
            [same("weight", lambda c: (c.visual.output_dim, c.visual.width))],
            count=lambda c: int(c.visual.has_kv_proj),
        ),
    ],
    harmless=(
        *MINDSPORE_COUNTERS,
        # Buffers that some versions of the original saved: tables of angles, masks.
        "transformer.rotary_emb.inv_freq",
        "transformer.h.*.attn.rotary_emb.inv_freq",
        "transformer.h.*.attn.bias",
        "transformer.h.*.attn.masked_bias",
        "transformer.h.*.attn.logn_tensor",
    ),
)
