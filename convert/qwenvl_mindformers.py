"""The weight table of the Qwen-VL that MindFormers 1.5 had (``research/qwenvl``, removed in 2025).

It published one file, ``qwenvl_base_fp16.ckpt``. Names and layouts were taken from that port's own converter and cells
(``convert_weight.py``, ``qwenvl_model.py`` and ``qwen_model.py`` of mindspore-lab/mindformers); the published file
itself was not at hand. There, the language model lies below ``llm_model`` and its packed query, key and value are
three tensors each; the vision tower lies below ``vision_encoder``, its attention is MindFormers' MultiHeadAttention,
whose output projection is stored as [in, out], and its layer norms have ``gamma`` and ``beta``.

Variants that its converter could make on request are not read: ``use_qkv_concat`` (``attention.w``) and
``enable_emb_opt`` (rows added to both vocabulary matrices). They are refused as missing tensors or wrong shapes.
"""

from __future__ import annotations

from convert.qwenvl import KV_PROJ, LAYERS, OPTIONAL, sizes
from ms_impl.io.rules import Operation, PermuteRows, Transpose, Unpack, Weight, WeightTable, moved

LAYOUT = "mindformers-1.5"

_LANGUAGE, _VISION = "llm_model.transformer", "vision_encoder"
_THEIR_LAYER, _LAYER = "transformer.h.*", f"{_LANGUAGE}.layers.*"
_THEIR_BLOCK, _BLOCK = "transformer.visual.transformer.resblocks.*", f"{_VISION}.transformer.resblocks.*"
_THEIR_RESAMPLER, _RESAMPLER = "transformer.visual.attn_pool", f"{_VISION}.attn_pool"

_CUT = (Unpack("heads_width heads_width heads_width"),)
_CUT_VISION = (  # packed per head
    PermuteRows("visual_heads 3 visual_head", (1, 0, 2)),
    Unpack("visual visual visual"),
)
_CUT_RESAMPLER = (Unpack("output output output"),)


def _kept(shapes: dict[str, str]) -> dict[str, tuple[str, str]]:
    return {name: (name, shape) for name, shape in shapes.items()}


def _layer_norm(name: str, width: str) -> dict[str, tuple[str, str]]:
    return {f"{name}.weight": (f"{name}.gamma", width), f"{name}.bias": (f"{name}.beta", width)}


def _cut(name: str, shape: str, ours: list[str], operations: tuple[Operation, ...]) -> Weight:
    """A packed tensor that is several there."""
    return Weight((name,), (shape,), tuple(ours), operations)


def _dense(path: str, parameter: str) -> list[str]:
    """Query, key and value in MindFormers' MultiHeadAttention."""
    return [f"{path}.attn.dense{number}.{parameter}" for number in (1, 2, 3)]


WEIGHTS = WeightTable(
    [
        *moved("", "llm_model", _kept({"lm_head.weight": "vocabulary width"})),
        *moved("transformer", _LANGUAGE, {
            "wte.weight": ("wte.embedding_weight", "vocabulary width"),
            "ln_f.weight": ("ln_f.weight", "width"),
        }),
        *moved(_THEIR_LAYER, _LAYER, {
            "ln_1.weight": ("attention_norm.weight", "width"),
            "attn.c_proj.weight": ("attention.wo.weight", "width heads_width"),
            "ln_2.weight": ("ffn_norm.weight", "width"),
            "mlp.w1.weight": ("feed_forward.w1.weight", "ffn width"),
            "mlp.w2.weight": ("feed_forward.w3.weight", "ffn width"),
            "mlp.c_proj.weight": ("feed_forward.w2.weight", "width ffn"),
        }),
        *(
            _cut(f"{_THEIR_LAYER}.attn.c_attn.{end}", shape, [f"{_LAYER}.attention.w{x}.{end}" for x in "qkv"], _CUT)
            for end, shape in (("weight", "qkv width"), ("bias", "qkv"))
        ),
        *moved("transformer.visual", _VISION, {
            **_kept({
                "conv1.weight": "visual 3 patch patch",
                "positional_embedding": "positions visual",
                "proj": "output output",
            }),
            **_layer_norm("ln_pre", "visual"),
            **_layer_norm("ln_post", "output"),
        }),
        *moved(_THEIR_BLOCK, _BLOCK, {
            **_layer_norm("ln_1", "visual"),
            "attn.out_proj.bias": ("attn.projection.bias", "visual"),
            **_layer_norm("ln_2", "visual"),
            **_kept({
                "mlp.c_fc.weight": "visual_ffn visual",
                "mlp.c_fc.bias": "visual_ffn",
                "mlp.c_proj.weight": "visual visual_ffn",
                "mlp.c_proj.bias": "visual",
            }),
        }),
        *moved(_THEIR_BLOCK, _BLOCK, {
            "attn.out_proj.weight": ("attn.projection.weight", "visual visual"),
        }, Transpose()),
        *(
            _cut(f"{_THEIR_BLOCK}.attn.in_proj.{end}", shape, _dense(_BLOCK, end), _CUT_VISION)
            for end, shape in (("weight", "visual_qkv visual"), ("bias", "visual_qkv"))
        ),
        *moved(_THEIR_RESAMPLER, _RESAMPLER, {
            **_kept({"query": "queries output", "pos_embed": "queries output"}),
            **_layer_norm("ln_q", "output"),
            **_layer_norm("ln_kv", "output"),
            "attn.out_proj.bias": ("attn.projection.bias", "output"),
        }),
        *moved(_THEIR_RESAMPLER, _RESAMPLER, {
            "attn.out_proj.weight": ("attn.projection.weight", "output output"),
        }, Transpose()),
        *(
            _cut(f"{_THEIR_RESAMPLER}.attn.in_proj_{end}", shape, _dense(_RESAMPLER, end), _CUT_RESAMPLER)
            for end, shape in (("weight", "output_qkv output"), ("bias", "output_qkv"))
        ),
        *moved("", "", {KV_PROJ: (f"{_RESAMPLER}.kv_proj.weight", "output visual")}),
    ],
    sizes=sizes,
    layers=LAYERS,
    optional=OPTIONAL,
    layout=LAYOUT,
)  # fmt: skip
