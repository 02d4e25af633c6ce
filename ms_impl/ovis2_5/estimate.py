"""Ovis2.5 on paper.

Assumed: half of a row's tokens are visual, four patches each, in frames of at most ``FRAME`` patches.

What is kept for the backward pass beside what every language model keeps (``ms_impl.estimate.language``), in numbers
for each position, W being the tower's width and F its feed-forward one:

- decoder layer: queries and keys before their norms, and normed; composed norms keep the normalised ones, too.
- vision block: 9 W (composed: 8), and 4 F: fc1's output and, of the GELU, which is composed on every device, its
  argument in fp32, its sigmoid, and the product.
- visual head, for each visual token: its input, 4 W, and the embedding, D. Over chunks nothing else is kept; on Ascend
  the scores, the normalised scores and their softmax, in fp32, are: 12 bytes for each of the table's rows.
"""

from __future__ import annotations

from dataclasses import replace

from ms_impl.errors import InputError
from ms_impl.estimate.language import Shapes, below, decoder_part, head_part
from ms_impl.estimate.plan import RunLayout
from ms_impl.estimate.shape import Part
from ms_impl.ovis2_5.config import Ovis2_5Config

FRAME = 3136  # patches of 896 × 896 pixels
CHUNK = 256  # visual tokens that are scored at a time where the head goes over chunks
_TOWER = "visual_tokenizer.vit.vision_model"


def parts(config: Ovis2_5Config, plan: RunLayout, shapes: Shapes) -> list[Part]:
    """The parts of an Ovis2.5 in forward order, for rows of ``plan.length`` tokens, half of them visual."""
    visual_tokens = plan.length // 2
    return [
        *_vision_parts(config, plan, shapes, visual_tokens * config.vit_config.hidden_stride**2),
        _visual_head(config, plan, shapes, visual_tokens),
        _embedding(config, plan, shapes),
        _decoder(config, plan, shapes),
        head_part(plan, below(shapes, "llm.model.norm", "llm.lm_head"), config.hidden_size, config.vocab_size),
    ]


def _vision_parts(config: Ovis2_5Config, plan: RunLayout, shapes: Shapes, patches: int) -> list[Part]:
    vision, frame = config.vit_config, min(FRAME, patches)
    width = vision.hidden_size
    return [
        Part("patches", below(shapes, f"{_TOWER}.embeddings"), patches, "first",
             others={"position_embedding.weight": patches}, kept=2 * patches * width),
        Part("vision blocks", below(shapes, f"{_TOWER}.encoder", f"{_TOWER}.post_layernorm"), patches, "first",
             vision.num_hidden_layers, scores=vision.num_attention_heads * patches * frame,
             score_flops=4 * patches * frame * width, entry=patches * width,
             kept=patches * ((9 if plan.flash else 8) * width + 4 * vision.intermediate_size),
             work=patches * (2 * width + 3 * vision.intermediate_size), recomputes=True),
    ]  # fmt: skip


def _visual_head(config: Ovis2_5Config, plan: RunLayout, shapes: Shapes, tokens: int) -> Part:
    scored = tokens if plan.flash else min(CHUNK, tokens)
    return Part(
        "visual head and table", below(shapes, "visual_tokenizer.head", "vte"), tokens, "first",
        kept=tokens * (config.vit_config.merged_width + config.hidden_size),
        extra_bytes=12 * scored * config.visual_tokens,
    )  # fmt: skip


def _embedding(config: Ovis2_5Config, plan: RunLayout, shapes: Shapes) -> Part:
    multiplied = plan.length if config.llm_config.tie_word_embeddings else 0  # a tied one is the head's matrix, too
    return Part(
        "token embedding", below(shapes, "llm.model.embed_tokens"), plan.length, "first",
        others={"embed_tokens.weight": multiplied},
    )  # fmt: skip


def _decoder(config: Ovis2_5Config, plan: RunLayout, shapes: Shapes) -> Part:
    llm = config.llm_config
    part = decoder_part(
        plan, below(shapes, "llm.model.layers"), llm.num_hidden_layers, llm.num_attention_heads, llm.head_dim,
        llm.hidden_size, llm.kv_width, llm.intermediate_size,
    )  # fmt: skip
    normed = (2 if plan.flash else 3) * (llm.attention_width + llm.kv_width)
    return replace(part, kept=part.kept + plan.length * normed, split_kept=0)


def check(config: Ovis2_5Config, plan: RunLayout) -> None:
    """Raise InputError where the model is to be cut: it runs data parallel alone."""
    for key, number in (("model_parallel", plan.model_parallel), ("pipeline_stage", plan.stages)):
        if number != 1:
            raise InputError(f"parallel_config.{key}: Ovis2.5 runs data parallel only; set it to 1")
