"""Qwen-VL on paper.

What a layer keeps for the backward pass, in numbers for each position, D being the width of the language model, W that
of the vision tower and F the feed-forward one; decoder layers and head are those of ``ms_impl.estimate.language``:

- vision block: its input, the norms' outputs, q, k, v, the heads' output twice, the second norm's input: 9 W (composed:
  8), without more for the norms; c_fc's output, and of the GELU, which is composed on every device, its argument over
  √2, 1 + erf, and the product: 4 F.
- resampler, for each patch: its input W, and D for each of kv_proj, the norm, keys before and after their matrix, and
  values; for each query 4 D.
"""

from __future__ import annotations

from ms_impl.estimate.language import Shapes, below, decoder_part, head_part
from ms_impl.estimate.plan import RunLayout
from ms_impl.estimate.shape import Part
from ms_impl.qwenvl.config import QwenVLConfig
from ms_impl.qwenvl.parallel_plan import ParallelPlan

VISUAL = "transformer.visual"
NOT_MULTIPLIED = {"positional_embedding": 0, "query": 0, "pos_embed": 0, "wte.weight": 0}


def parts(config: QwenVLConfig, plan: RunLayout, shapes: Shapes) -> list[Part]:
    """The parts of a Qwen-VL in forward order, for rows of ``plan.length`` tokens with ``plan.images`` images."""
    return [
        *_vision_parts(config, plan, shapes),
        Part("token embedding", below(shapes, "transformer.wte"), plan.length, "first", others=NOT_MULTIPLIED,
             cut=plan.cut_vocabulary),
        _decoder(config, plan, shapes),
        _head(config, plan, shapes),
    ]  # fmt: skip


def _vision_parts(config: QwenVLConfig, plan: RunLayout, shapes: Shapes) -> list[Part]:
    visual, patches = config.visual, plan.images * config.visual.grid**2
    features = plan.images * visual.n_queries
    width, out, score_rows = visual.width, visual.output_dim, patches * visual.grid**2
    pool = below(shapes, f"{VISUAL}.attn_pool")
    # Of in_proj's three equal parts the queries pass through one, once for all images, the patches through two.
    in_proj = (visual.n_queries + 2 * patches) / 3
    crossed = features * visual.grid**2
    return [
        Part("patches", below(shapes, f"{VISUAL}.conv1", f"{VISUAL}.positional_embedding", f"{VISUAL}.ln_pre"),
             patches, "first", others=NOT_MULTIPLIED, kept=2 * patches * width),
        Part("vision blocks", below(shapes, f"{VISUAL}.transformer"), patches, "first", visual.layers,
             scores=visual.heads * score_rows, score_flops=4 * score_rows * width, entry=patches * width,
             kept=patches * ((9 if plan.flash else 8) * width + 4 * visual.mlp_width),
             work=patches * (2 * width + 3 * visual.mlp_width), recomputes=True),
        Part("resampler", pool, patches, "first",
             others=NOT_MULTIPLIED | {"in_proj_weight": in_proj, "out_proj.weight": features},
             scores=visual.resampler_heads * crossed, score_flops=4 * crossed * out,
             kept=patches * (width + 5 * out) + 4 * features * out),
        Part("projection", below(shapes, f"{VISUAL}.ln_post", f"{VISUAL}.proj"), features, "first",
             kept=2 * features * out),
    ]  # fmt: skip


def _decoder(config: QwenVLConfig, plan: RunLayout, shapes: Shapes) -> Part:
    heads, width = config.num_attention_heads, config.hidden_size
    return decoder_part(
        plan, below(shapes, "transformer.h"), config.num_hidden_layers, heads, width // heads, width, width,
        config.ffn_size, cut=True,
    )  # fmt: skip


def _head(config: QwenVLConfig, plan: RunLayout, shapes: Shapes) -> Part:
    weights = below(shapes, "transformer.ln_f", "lm_head")
    return head_part(plan, weights, config.hidden_size, config.vocab_size, cut=plan.cut_vocabulary)


def check(config: QwenVLConfig, plan: RunLayout) -> None:
    """Raise InputError where ``ms_impl.qwenvl.parallel`` cannot cut the model so."""
    ParallelPlan(
        data_parallel=plan.data_parallel,
        model_parallel=plan.model_parallel,
        pipeline_stage=plan.stages,
        micro_batch_num=plan.micro_batches,
        vocab_emb_dp=not plan.cut_vocabulary,
    ).check(config, plan.devices)
