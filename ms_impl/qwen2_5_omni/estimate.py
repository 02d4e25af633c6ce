"""Qwen2.5-Omni's thinker on paper: with each image of a row, of 448 × 448 pixels, comes a sound of ``SECONDS``.

What a layer of a tower keeps for the backward pass, in numbers for each position, W being the width and F the
feed-forward one:

- vision block: as a decoder layer whose keys have the width of its queries (``ms_impl.estimate.language``).
- audio layer: its input, the norms' outputs, q, k, v, the heads' output twice, the second norm's input: 9 W (composed:
  8); fc1's output, and of the GELU, which is composed on every device, its argument over √2, 1 + erf, and the product:
  4 F.
- merger: its input, normed, after the first matrix, and of the GELU three times that.
"""

from __future__ import annotations

from dataclasses import replace

from ms_impl.errors import InputError
from ms_impl.estimate.language import Shapes, below, decoder_part, head_part
from ms_impl.estimate.plan import RunLayout
from ms_impl.estimate.shape import Part
from ms_impl.qwen2_5_omni.config import Qwen2_5OmniConfig

PIXELS = 448  # the side of an image
SECONDS = 4  # of sound for each image


def parts(config: Qwen2_5OmniConfig, plan: RunLayout, shapes: Shapes) -> list[Part]:
    """The parts of a thinker in forward order, for rows of ``plan.length`` tokens with ``plan.images`` images."""
    text = config.text_config
    return [
        *_vision_parts(config, plan, shapes),
        *_audio_parts(config, plan, shapes),
        Part("token embedding", below(shapes, "model.embed_tokens"), plan.length, "first", others={"weight": 0}),
        decoder_part(
            plan, below(shapes, "model.layers"), text.num_hidden_layers, text.num_attention_heads, text.head_dim,
            text.hidden_size, text.kv_width, text.intermediate_size,
        ),
        head_part(plan, below(shapes, "model.norm", "lm_head"), text.hidden_size, text.vocab_size),
    ]  # fmt: skip


def _vision_parts(config: Qwen2_5OmniConfig, plan: RunLayout, shapes: Shapes) -> list[Part]:
    vision = config.vision_config
    frame = (PIXELS // vision.patch_size) ** 2
    patches, units = plan.images * frame, plan.images * frame // vision.spatial_merge_size**2
    image = decoder_part(
        replace(plan, length=frame), below(shapes, "visual.blocks"), vision.depth, vision.num_heads, vision.head_dim,
        vision.hidden_size, vision.hidden_size, vision.intermediate_size,
    )  # fmt: skip
    several = ("scores", "score_flops", "entry", "kept", "work")  # images attend to themselves alone
    blocks = replace(image, **{name: plan.images * getattr(image, name) for name in several})
    merged = patches * vision.hidden_size
    return [
        Part("patches", below(shapes, "visual.patch_embed"), patches, "first", kept=patches * vision.patch_features),
        replace(blocks, name="vision blocks", positions=patches, stage="first", split_kept=0, cached=0),
        Part("merger", below(shapes, "visual.merger"), units, "first", kept=6 * merged, work=2 * merged),
    ]


def _audio_parts(config: Qwen2_5OmniConfig, plan: RunLayout, shapes: Shapes) -> list[Part]:
    audio = config.audio_config
    chunks = plan.images * -(-SECONDS * 100 // audio.chunk_frames)
    frames, width, inner = chunks * audio.chunk_frames, audio.d_model, audio.encoder_ffn_dim
    positions = frames // 2
    scores = chunks * audio.n_window**2
    return [
        Part("mel frames", below(shapes, "audio_tower.conv1", "audio_tower.conv2", "audio_tower.audio_bos_eos_token"),
             positions, "first", others={"conv1.weight": frames, "audio_bos_eos_token.weight": 0},
             kept=4 * (frames + positions) * width),
        Part("audio layers", below(shapes, "audio_tower.layers"), positions, "first", audio.encoder_layers,
             scores=audio.encoder_attention_heads * scores, score_flops=4 * scores * width, entry=positions * width,
             kept=positions * ((9 if plan.flash else 8) * width + 4 * inner), work=positions * (2 * width + 3 * inner),
             recomputes=True),
        Part("audio features", below(shapes, "audio_tower.ln_post", "audio_tower.proj"), positions // 2, "first",
             kept=positions * width),
    ]  # fmt: skip


def check(config: Qwen2_5OmniConfig, plan: RunLayout) -> None:
    """Raise InputError where the model would be cut: it runs data parallel alone."""
    for key, parts in (("model_parallel", plan.model_parallel), ("pipeline_stage", plan.stages)):
        if parts != 1:
            raise InputError(f"parallel_config.{key}: Qwen2.5-Omni runs data parallel only; set it to 1, not {parts}")
