"""The weight table of the Qwen-VL that MindFormers 1.5 had (``research/qwenvl``, removed in 2025).

It published one file, ``qwenvl_base_fp16.ckpt``. Names and layouts were taken from that port's own converter and cells
(``convert_weight.py``, ``qwenvl_model.py`` and ``qwen_model.py`` of mindspore-lab/mindformers); the published file
itself was not at hand. There, the language model lies below ``llm_model`` and its packed query, key and value are
three tensors each; the vision tower lies below ``vision_encoder``, its attention is MindFormers' MultiHeadAttention,
whose output projection is stored as [in, out], and its layer norms have ``gamma`` and ``beta``.

Variants that its converter could make on request are not read: ``use_qkv_concat`` (``attention.w``) and
``enable_emb_opt`` (rows added to both vocabulary matrices). They are refused as missing or misshapen tensors.
"""

from __future__ import annotations

from ms_impl.io.rules import (
    Layout,
    Module,
    PerConfig,
    PermuteRows,
    Transpose,
    Unpack,
    Weight,
    WeightTable,
    rename,
    same,
)


def _layer_norm(name: str, shape: PerConfig) -> list[Weight]:
    return [rename(f"{name}.weight", f"{name}.gamma", shape), rename(f"{name}.bias", f"{name}.beta", shape)]


def _dense(parameter: str) -> tuple[str, str, str]:
    """Query, key and value in MindFormers' MultiHeadAttention."""
    return f"attn.dense1.{parameter}", f"attn.dense2.{parameter}", f"attn.dense3.{parameter}"


# What cuts [Q|K|V]: of the language model, of the vision tower (there packed per head) and of the resampler.
_CUT_LANGUAGE = (Unpack(lambda c: (c.projection_size,) * 3),)
_CUT_VISION = (
    PermuteRows(lambda c: (c.visual.heads, 3, c.visual.head_dim), (1, 0, 2)),
    Unpack(lambda c: (c.visual.width,) * 3),
)
_CUT_RESAMPLER = (Unpack(lambda c: (c.visual.output_dim,) * 3),)

_LANGUAGE_MODEL = [
    Module(
        "",
        [same("lm_head.weight", lambda c: (c.vocab_size, c.hidden_size))],
        ms="llm_model",
    ),
    Module(
        "transformer",
        [
            rename("wte.weight", "wte.embedding_weight", lambda c: (c.vocab_size, c.hidden_size)),
            same("ln_f.weight", lambda c: (c.hidden_size,)),
        ],
        ms="llm_model.transformer",
    ),
    Module(
        "transformer.h.{}",
        [
            rename("ln_1.weight", "attention_norm.weight", lambda c: (c.hidden_size,)),
            Weight(
                ("attn.c_attn.weight",),
                (lambda c: (3 * c.projection_size, c.hidden_size),),
                ("attention.wq.weight", "attention.wk.weight", "attention.wv.weight"),
                _CUT_LANGUAGE,
            ),
            Weight(
                ("attn.c_attn.bias",),
                (lambda c: (3 * c.projection_size,),),
                ("attention.wq.bias", "attention.wk.bias", "attention.wv.bias"),
                _CUT_LANGUAGE,
            ),
            rename("attn.c_proj.weight", "attention.wo.weight", lambda c: (c.hidden_size, c.projection_size)),
            rename("ln_2.weight", "ffn_norm.weight", lambda c: (c.hidden_size,)),
            rename("mlp.w1.weight", "feed_forward.w1.weight", lambda c: (c.ffn_size, c.hidden_size)),
            rename("mlp.w2.weight", "feed_forward.w3.weight", lambda c: (c.ffn_size, c.hidden_size)),
            rename("mlp.c_proj.weight", "feed_forward.w2.weight", lambda c: (c.hidden_size, c.ffn_size)),
        ],
        count=lambda c: c.num_hidden_layers,
        ms="llm_model.transformer.layers.{}",
    ),
]

_VISION_TOWER = [
    Module(
        "transformer.visual",
        [
            same("conv1.weight", lambda c: (c.visual.width, 3, c.visual.patch_size, c.visual.patch_size)),
            same("positional_embedding", lambda c: (c.visual.n_positions, c.visual.width)),
            *_layer_norm("ln_pre", lambda c: (c.visual.width,)),
            *_layer_norm("ln_post", lambda c: (c.visual.output_dim,)),
            same("proj", lambda c: (c.visual.output_dim, c.visual.output_dim)),
        ],
        ms="vision_encoder",
    ),
    Module(
        "transformer.visual.transformer.resblocks.{}",
        [
            *_layer_norm("ln_1", lambda c: (c.visual.width,)),
            Weight(
                ("attn.in_proj.weight",),
                (lambda c: (3 * c.visual.width, c.visual.width),),
                _dense("weight"),
                _CUT_VISION,
            ),
            Weight(
                ("attn.in_proj.bias",),
                (lambda c: (3 * c.visual.width,),),
                _dense("bias"),
                _CUT_VISION,
            ),
            rename(
                "attn.out_proj.weight",
                "attn.projection.weight",
                lambda c: (c.visual.width, c.visual.width),
                Transpose(),
            ),
            rename("attn.out_proj.bias", "attn.projection.bias", lambda c: (c.visual.width,)),
            *_layer_norm("ln_2", lambda c: (c.visual.width,)),
            same("mlp.c_fc.weight", lambda c: (c.visual.mlp_width, c.visual.width)),
            same("mlp.c_fc.bias", lambda c: (c.visual.mlp_width,)),
            same("mlp.c_proj.weight", lambda c: (c.visual.width, c.visual.mlp_width)),
            same("mlp.c_proj.bias", lambda c: (c.visual.width,)),
        ],
        count=lambda c: c.visual.layers,
        ms="vision_encoder.transformer.resblocks.{}",
    ),
]

_RESAMPLER = [
    Module(
        "transformer.visual.attn_pool",
        [
            same("query", lambda c: (c.visual.n_queries, c.visual.output_dim)),
            same("pos_embed", lambda c: (c.visual.n_queries, c.visual.output_dim)),
            *_layer_norm("ln_q", lambda c: (c.visual.output_dim,)),
            *_layer_norm("ln_kv", lambda c: (c.visual.output_dim,)),
            Weight(
                ("attn.in_proj_weight",),
                (lambda c: (3 * c.visual.output_dim, c.visual.output_dim),),
                _dense("weight"),
                _CUT_RESAMPLER,
            ),
            Weight(
                ("attn.in_proj_bias",),
                (lambda c: (3 * c.visual.output_dim,),),
                _dense("bias"),
                _CUT_RESAMPLER,
            ),
            rename(
                "attn.out_proj.weight",
                "attn.projection.weight",
                lambda c: (c.visual.output_dim, c.visual.output_dim),
                Transpose(),
            ),
            rename("attn.out_proj.bias", "attn.projection.bias", lambda c: (c.visual.output_dim,)),
        ],
        ms="vision_encoder.attn_pool",
    ),
    Module(
        "transformer.visual.attn_pool.kv_proj",
        [same("weight", lambda c: (c.visual.output_dim, c.visual.width))],
        count=lambda c: int(c.visual.has_kv_proj),
        ms="vision_encoder.attn_pool.kv_proj",
    ),
]

WEIGHTS = WeightTable([*_LANGUAGE_MODEL, *_VISION_TOWER, *_RESAMPLER], Layout.MINDFORMERS_1_5)
