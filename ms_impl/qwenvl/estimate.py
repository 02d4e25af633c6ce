"""Qwen-VL on paper.

What a layer keeps for the backward pass, in numbers for each position, D being the width and F the feed-forward one:

- decoder layer: its input, the first norm's output, q, k, v, the heads' output in attention's layout and in that of
  the next matrix, the second norm's input and output: 9 D; both branches of the gated layer, silu of one, and the
  product: 4 F.
  Composed norms keep the normalised input beside the scaled one (2 D more), composed attention the softmax of its
  scores, heads × keys, in place of its output (1 D less).
- vision block: the same 9 W (composed: 8), without more for the norms; c_fc's output, and of the GELU, which is
  composed on every device, its argument over √2, 1 + erf, and the product: 4 F.
- resampler, for each patch: its input W, and D for each of kv_proj, the norm, keys before and after their matrix, and
  values; for each query 4 D.
- head: the logits themselves in fp32 as log-probabilities, their gradient and the gradient before the softmax:
  12 bytes for each token and entry of the vocabulary, and the logits in the compute dtype where that is another.
"""

from __future__ import annotations

from collections.abc import Mapping

from ms_impl.estimate.plan import RunLayout
from ms_impl.estimate.shape import Part
from ms_impl.qwenvl.config import QwenVLConfig
from ms_impl.qwenvl.parallel_plan import ParallelPlan

Shapes = Mapping[str, tuple[int, ...]]
VISUAL = "transformer.visual"
NOT_MULTIPLIED = {"positional_embedding": 0, "query": 0, "pos_embed": 0, "wte.weight": 0}


def parts(config: QwenVLConfig, plan: RunLayout, shapes: Shapes) -> list[Part]:
    """The parts of a Qwen-VL in forward order, for rows of ``plan.length`` tokens with ``plan.images`` images."""
    return [
        *_vision_parts(config, plan, shapes),
        Part("token embedding", _below(shapes, "transformer.wte"), plan.length, "first", others=NOT_MULTIPLIED,
             cut=plan.cut_vocabulary),
        _decoder(config, plan, shapes),
        _head(config, plan, shapes),
    ]  # fmt: skip


def _vision_parts(config: QwenVLConfig, plan: RunLayout, shapes: Shapes) -> list[Part]:
    visual, patches = config.visual, plan.images * config.visual.grid**2
    features = plan.images * visual.n_queries
    width, out, score_rows = visual.width, visual.output_dim, patches * visual.grid**2
    pool = _below(shapes, f"{VISUAL}.attn_pool")
    # Of in_proj's three equal parts the queries pass through one, once for all images, the patches through two.
    in_proj = (visual.n_queries + 2 * patches) / 3
    crossed = features * visual.grid**2
    return [
        Part("patches", _below(shapes, f"{VISUAL}.conv1", f"{VISUAL}.positional_embedding", f"{VISUAL}.ln_pre"),
             patches, "first", others=NOT_MULTIPLIED, kept=2 * patches * width),
        Part("vision blocks", _below(shapes, f"{VISUAL}.transformer"), patches, "first", visual.layers,
             scores=visual.heads * score_rows, score_flops=4 * score_rows * width, entry=patches * width,
             kept=patches * ((9 if plan.flash else 8) * width + 4 * visual.mlp_width),
             work=patches * (2 * width + 3 * visual.mlp_width), recomputes=True),
        Part("resampler", pool, patches, "first",
             others=NOT_MULTIPLIED | {"in_proj_weight": in_proj, "out_proj.weight": features},
             scores=visual.resampler_heads * crossed, score_flops=4 * crossed * out,
             kept=patches * (width + 5 * out) + 4 * features * out),
        Part("projection", _below(shapes, f"{VISUAL}.ln_post", f"{VISUAL}.proj"), features, "first",
             kept=2 * features * out),
    ]  # fmt: skip


def _decoder(config: QwenVLConfig, plan: RunLayout, shapes: Shapes) -> Part:
    length, width, inner = plan.length, config.hidden_size, config.ffn_size
    split = 5 * width if plan.flash else 4 * width
    whole = 4 * width if plan.flash else 6 * width
    return Part(
        "decoder layers", _below(shapes, "transformer.h"), length, "layers", config.num_hidden_layers,
        scores=config.num_attention_heads * length**2, score_flops=4 * length**2 * width, entry=length * width,
        kept=length * (whole + split + 4 * inner), split_kept=length * (split + 4 * inner),
        work=length * (2 * width + 3 * inner), cut=True, recomputes=True,
    )  # fmt: skip


def _head(config: QwenVLConfig, plan: RunLayout, shapes: Shapes) -> Part:
    logits = plan.length * config.vocab_size
    cast = plan.compute_bytes if plan.compute_bytes != 4 else 0
    return Part(
        "head", _below(shapes, "transformer.ln_f", "lm_head"), plan.length, "last",
        kept=(2 if plan.flash else 3) * plan.length * config.hidden_size, cut=plan.cut_vocabulary,
        extra_bytes=(12 + cast) * logits,
    )  # fmt: skip


def _below(shapes: Shapes, *prefixes: str) -> Shapes:
    return {name: shape for name, shape in shapes.items() if name.startswith(tuple(f"{p}." for p in prefixes))
            or name in prefixes}  # fmt: skip


def check(config: QwenVLConfig, plan: RunLayout) -> None:
    """Raise InputError where ``ms_impl.qwenvl.parallel`` cannot cut the model so."""
    ParallelPlan(
        data_parallel=plan.data_parallel,
        model_parallel=plan.model_parallel,
        pipeline_stage=plan.stages,
        micro_batch_num=plan.micro_batches,
        vocab_emb_dp=not plan.cut_vocabulary,
    ).check(config, plan.devices)
