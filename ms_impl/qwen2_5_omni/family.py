"""Qwen2.5-Omni's record: its thinker. The talker and token2wav are neither built nor trained."""

from ms_impl.families import Family


def _named(*patterns: str) -> tuple[str, ...]:
    """As a thinker that stands alone names them, and as a whole Omni does."""
    return (*patterns, *(f"thinker.{pattern}" for pattern in patterns))


FAMILY = Family(
    name="qwen2_5_omni",
    arch="Qwen2_5Omni",
    model_types=("qwen2_5_omni", "qwen2_5_omni_thinker"),
    architectures=(
        "Qwen2_5OmniModel",
        "Qwen2_5OmniForConditionalGeneration",
        "Qwen2_5OmniThinkerForConditionalGeneration",
        "Qwen2OmniNaViTThinkerForConditionalGeneration",
    ),
    config_keys=(("thinker_config",), ("audio_config", "vision_config", "text_config")),
    config="ms_impl.qwen2_5_omni.config:Qwen2_5OmniConfig",
    model="ms_impl.qwen2_5_omni.model:Qwen2_5OmniThinker",
    template="ms_impl.qwen2_5_omni.template:Qwen2_5OmniTemplate",
    weights="convert.qwen2_5_omni:WEIGHTS",
    training="configs/qwen2_5_omni/finetune_qwen2_5_omni_7b_bf16.yaml",
    estimate="ms_impl.qwen2_5_omni.estimate",
    groups={
        "aligner": _named("audio_tower.proj.*", "visual.merger.*"),
        "vision_tower": _named("audio_tower.*", "visual.*"),
        "language_model": _named("model.*", "lm_head.*"),
        "generator": ("talker.*", "token2wav.*"),
    },
    untrained=_named("audio_tower.audio_bos_eos_token.*"),  # in the checkpoint, in no computation
    embeddings=_named("model.embed_tokens", "audio_tower.audio_bos_eos_token"),
    adapter_prefixes=("base_model.model.thinker.", "base_model.model."),
    saved_files=("spk_dict.pt",),
    generation={"max_new_tokens": 1024, "eos_token_id": (151645, 151643)},  # else Hugging Face's own: greedy
)
