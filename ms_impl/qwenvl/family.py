"""Qwen-VL's record."""

from ms_impl.families import Family

FAMILY = Family(
    name="qwenvl",
    arch="QwenVL",
    model_types=("qwen",),
    architectures=("QWenLMHeadModel",),
    config_keys=(("visual", "kv_channels", "intermediate_size", "seq_length"),),
    config="ms_impl.qwenvl.config:QwenVLConfig",
    model="ms_impl.qwenvl.model:QwenVL",
    reference="torch_ref.qwenvl.model:QwenVL",
    template="ms_impl.qwenvl.template:QwenVLTemplate",
    weights="convert.qwenvl:WEIGHTS",
    groups={
        "aligner": ("transformer.visual.attn_pool.*",),
        "vision_tower": ("transformer.visual.*",),
        "language_model": ("transformer.wte.*", "transformer.h.*", "transformer.ln_f.*", "lm_head.*"),
    },
    freeze_keys={
        "freeze_vision": ("vision_tower",),
        "freeze_resampler": ("aligner",),
        "freeze_llm": ("language_model",),
    },
    training="configs/qwenvl/finetune_qwenvl_9.6b_bf16.yaml",
    sources={"mindformers-1.5": "convert.qwenvl_mindformers:WEIGHTS"},
    embeddings=("transformer.wte",),
    vocabulary=("*.tiktoken",),
    generation={  # what the base model was released with
        "chat_format": "raw",
        "do_sample": True,
        "top_k": 0,
        "top_p": 0.5,
        "max_new_tokens": 512,
        "max_window_size": 6144,
    },
    estimate="ms_impl.qwenvl.estimate",
    cut_graph="ms_impl.qwenvl.cut_graph",
)
