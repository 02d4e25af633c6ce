"""The weight table of Qwen2.5-Omni's thinker.

Our names are those of a thinker that stands alone. In the checkpoint of a whole Omni each begins with ``thinker.``, and
the weights of its speech, which are not built here, stand beside them.
"""

from __future__ import annotations

from ms_impl.io.rules import Sizes, WeightTable, layer_norm, linear, same
from ms_impl.qwen2_5_omni.config import Qwen2_5OmniConfig


def sizes(config: Qwen2_5OmniConfig) -> Sizes:
    """The words of the shapes in numbers."""
    audio, vision, text = config.audio_config, config.vision_config, config.text_config
    return {
        "vocabulary": text.vocab_size, "width": text.hidden_size, "ffn": text.intermediate_size,
        "heads": text.num_attention_heads * text.head_dim, "kv_heads": text.kv_width, "layers": text.num_hidden_layers,
        "mel": audio.num_mel_bins, "audio": audio.d_model, "audio_ffn": audio.encoder_ffn_dim,
        "audio_layers": audio.encoder_layers,
        "visual": vision.hidden_size, "visual_ffn": vision.intermediate_size, "merged": vision.merged_width,
        "channels": vision.in_channels, "frames": vision.temporal_patch_size, "patch": vision.patch_size,
        "blocks": vision.depth,
    }  # fmt: skip


WEIGHTS = WeightTable(
    [
        *same("audio_tower", {
            "conv1.weight": "audio mel 3",
            "conv1.bias": "audio",
            "conv2.weight": "audio audio 3",
            "conv2.bias": "audio",
            "audio_bos_eos_token.weight": "2 width",  # used by nothing, and kept
        }),
        *same("audio_tower.layers.*", {
            "self_attn.k_proj.weight": "audio audio",
            **linear("self_attn.v_proj", "audio", "audio"),
            **linear("self_attn.q_proj", "audio", "audio"),
            **linear("self_attn.out_proj", "audio", "audio"),
            **layer_norm("self_attn_layer_norm", "audio"),
            **linear("fc1", "audio_ffn", "audio"),
            **linear("fc2", "audio", "audio_ffn"),
            **layer_norm("final_layer_norm", "audio"),
        }),
        *same("audio_tower", {
            **layer_norm("ln_post", "audio"),
            **linear("proj", "width", "audio"),
        }),
        *same("visual", {"patch_embed.proj.weight": "visual channels frames patch patch"}),
        *same("visual.blocks.*", {
            "norm1.weight": "visual",
            "norm2.weight": "visual",
            **linear("attn.q", "visual", "visual"),
            **linear("attn.k", "visual", "visual"),
            **linear("attn.v", "visual", "visual"),
            **linear("attn.proj", "visual", "visual"),
            **linear("mlp.gate_proj", "visual_ffn", "visual"),
            **linear("mlp.up_proj", "visual_ffn", "visual"),
            **linear("mlp.down_proj", "visual", "visual_ffn"),
        }),
        *same("visual.merger", {
            "ln_q.weight": "visual",
            **linear("mlp.0", "merged", "merged"),
            **linear("mlp.2", "width", "merged"),
        }),
        *same("model", {"embed_tokens.weight": "vocabulary width"}),
        *same("model.layers.*", {
            **linear("self_attn.q_proj", "heads", "width"),
            **linear("self_attn.k_proj", "kv_heads", "width"),
            **linear("self_attn.v_proj", "kv_heads", "width"),
            "self_attn.o_proj.weight": "width heads",
            "mlp.gate_proj.weight": "ffn width",
            "mlp.up_proj.weight": "ffn width",
            "mlp.down_proj.weight": "width ffn",
            "input_layernorm.weight": "width",
            "post_attention_layernorm.weight": "width",
        }),
        *same("", {"model.norm.weight": "width", "lm_head.weight": "vocabulary width"}),
    ],
    sizes=sizes,
    layers={"audio_tower.layers": "audio_layers", "visual.blocks": "blocks", "model.layers": "layers"},
    prefix=lambda config: config.weight_prefix,
    skipped=("talker.*", "token2wav.*"),
)  # fmt: skip
