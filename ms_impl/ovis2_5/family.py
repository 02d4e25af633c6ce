"""Ovis2.5's record."""

from ms_impl.families import Family

FAMILY = Family(
    name="ovis2_5",
    arch="Ovis2_5",
    model_types=("ovis2_5", "ovis"),
    architectures=("Ovis2_5", "Ovis"),
    config_keys=(("llm_config", "vit_config", "visual_vocab_size"),),
    config="ms_impl.ovis2_5.config:Ovis2_5Config",
    model="ms_impl.ovis2_5.model:Ovis2_5",
    reference="torch_ref.ovis2_5.model:Ovis2_5",
    template="ms_impl.ovis2_5.template:Ovis2_5Template",
    weights="convert.ovis2_5:WEIGHTS",
    groups={
        "aligner": ("visual_tokenizer.head.*", "vte.*"),
        "vision_tower": ("visual_tokenizer.*",),
        "language_model": ("llm.*",),
    },
    untrained=("visual_tokenizer.vit.vision_model.post_layernorm.*",),  # in the checkpoint, in no computation
    freeze_keys={
        "freeze_llm": ("language_model",),
        "freeze_vision_tower": ("vision_tower",),
        "freeze_vit": ("vision_tower",),
        "freeze_aligner": ("aligner",),
    },
    training="configs/ovis2_5/finetune_ovis2_5_9b.yaml",
    selectors="ms_impl.ovis2_5.train_modules:selectors",
    generation={"max_new_tokens": 1024},  # with Hugging Face's own for the rest, as the original's PyTorch code has
    embeddings=("llm.model.embed_tokens", "vte", "visual_tokenizer.vit.vision_model.embeddings.position_embedding"),
    output_head="llm.lm_head",
    estimate="ms_impl.ovis2_5.estimate",
)
