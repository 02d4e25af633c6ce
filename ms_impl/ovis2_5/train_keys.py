"""The keys of the original's JSON configuration of a fine-tune: what each may be, and what it is where it is left out.

Those of the public training folder (``src_theo``), its LoRA variant, and Hugging Face's arguments that these set.
"""

from __future__ import annotations

from typing import Any

from ms_impl.cli.kinds import Either, Flag, Kind, ListOf, Number, Section, Text, Whole

_POSITIVE = Number(above=0, high=100)
_PIXELS = Whole(1, 1 << 30)
_MANY_PIXELS = Whole(-(1 << 30), 1 << 30)  # negative: a single image's maximum divided by their number
_LENGTH = Whole(1, 10_000_000)
_WORDS = Either((Text(empty=False), ListOf(Text(empty=False))), "a text or a list of texts")
_STEPS = Either((Whole(1), Number(above=0, below=1)), "a number of steps, or a share of them below 1")
_NAMES = Either((Text(), ListOf(Text())), "a name or a list of names")

SCHEDULES = {
    "linear": "LinearWithWarmUpLR",
    "cosine": "CosineWithWarmUpLR",
    "cosine_with_restarts": "CosineWithRestartsAndWarmUpLR",
    "polynomial": "PolynomialWithWarmUpLR",
    "constant": "ConstantWarmUpLR",
    "constant_with_warmup": "ConstantWarmUpLR",
}

_TRANSLATED: dict[str, Kind] = {
    "model_path": Text(empty=False), "ovis_pretrained_path": Text(empty=False), "visual_vocab_size": Whole(1),
    "data_type": Text(("conversation",), word="data type"), "data_path": _WORDS, "image_folder": Text(),
    "output_dir": Text(empty=False), "resume_from_checkpoint": Either((Flag(), Text()), "true, false or a name"),
    "num_train_epochs": Number(above=0, high=1_000_000), "per_device_train_batch_size": Whole(1, 1_000_000),
    "gradient_accumulation_steps": Whole(1, 1_000_000), "learning_rate": Number(low=0, high=100),
    "max_grad_norm": _POSITIVE, "weight_decay": Number(low=0, high=100), "adam_beta1": Number(above=0, below=1),
    "adam_beta2": Number(above=0, below=1), "adam_epsilon": _POSITIVE, "warmup_ratio": Number(low=0, high=1),
    "warmup_steps": Either((Whole(0), Number(low=0, below=1)), "a number of steps, or a share of them below 1"),
    "lr_scheduler_type": Text(tuple(SCHEDULES), word="schedule"), "logging_steps": _STEPS, "save_steps": _STEPS,
    "save_strategy": Text(("steps",), word="strategy"), "save_total_limit": Whole(1, 1_000_000),
    "seed": Whole(0, 2**32 - 1),
    "train_modules": Text(empty=False), "freeze_vision_tower": Flag(), "freeze_llm": Flag(),
    "multimodal_max_length": _LENGTH, "text_max_length": _LENGTH, "single_image_min_pixels": _PIXELS,
    "single_image_max_pixels": _PIXELS, "multiple_image_min_pixels": _MANY_PIXELS,
    "multiple_image_max_pixels": _MANY_PIXELS, "video_min_pixels": _MANY_PIXELS, "video_max_pixels": _MANY_PIXELS,
    "min_frames": Whole(1), "max_frames": Whole(1), "packing": Flag(), "group_by_length": Flag(),
    "gradient_checkpointing": Flag(), "bf16": Flag(), "fp16": Flag(),
    "torch_dtype": Text(("bfloat16", "float16", "float32"), word="type"), "dataloader_num_workers": Whole(0, 256),
    "dataloader_drop_last": Flag(), "dataloader_shuffle": Flag(), "lora_r": Whole(1, 1 << 16), "lora_alpha": _POSITIVE,
    "lora_dropout": Number(low=0, below=1), "lora_target_modules": _WORDS, "apply_lora_to_vision": Flag(),
    "device_target": Text(("Ascend", "CPU"), word="device"),
}  # fmt: skip

# What the original's other keys ask for has no counterpart; what stands for each is said.
_SETTINGS = "run_mindformer.py's do_eval with eval_dataset, and --run_mode eval"
_READ = "our own data path reads threads ahead (dataloader_num_workers)"
NO_COUNTERPART = {
    "data_name": "data_path names the data",
    "stage": "every stage is trained alike; train_modules says what",
    "deepspeed": "ZeRO-1: parallel.enable_parallel_optimizer divides the optimizer's state among ranks",
    "attn_implementation": "the device's own attention is taken",
    "torch_compile": "graph mode compiles always (context.mode)",
    "report_to": "output_dir/losses and output_dir/tensorboard are written always",
    "LLM_MODEL": "model_path's config.json has it",
    "VIT_MODEL": "model_path's config.json has it",
    "tf32": "Ascend and CPU have no such type",
    "optim": "AdamW",
    "data_seed": "seed draws the order, too",
    "overwrite_output_dir": "checkpoints are never overwritten: name another output_dir, or resume_from_checkpoint",
    "do_train": "it is what this command does",
    "do_eval": _SETTINGS,
    "eval_data_path": _SETTINGS,
    "eval_strategy": _SETTINGS,
    "eval_steps": _SETTINGS,
    "per_device_eval_batch_size": _SETTINGS,
    "load_best_model_at_end": "output_dir/eval/scores.jsonl tells the best step; all of save_total_limit are kept",
    "metric_for_best_model": "output_dir/eval/scores.jsonl tells the best step",
    "greater_is_better": "output_dir/eval/scores.jsonl tells the best step",
    "early_stopping_patience": "the run makes all its steps; Ctrl-C saves and stops it",
    "remove_unused_columns": "a record's other keys are ignored",
    "dataloader_pin_memory": _READ,
    "dataloader_persistent_workers": _READ,
    "max_seq_length": "multimodal_max_length",
    "dataset_text_field": "records are conversations",
    "formatting_func": "records are conversations",
}
KEYS = Section({**_TRANSLATED, **dict.fromkeys(NO_COUNTERPART, Kind()), "report_to": _NAMES})

_LORA = ("lora_r", "lora_alpha", "lora_dropout", "lora_target_modules")
DEFAULTS: dict[str, Any] = {
    "image_folder": "", "output_dir": "./output", "num_train_epochs": 3, "per_device_train_batch_size": 1,
    "gradient_accumulation_steps": 8, "learning_rate": 2e-5, "max_grad_norm": 1.0, "weight_decay": 0.0,
    "adam_beta1": 0.9, "adam_beta2": 0.999, "adam_epsilon": 1e-8, "warmup_ratio": 0.0, "warmup_steps": 0,
    "lr_scheduler_type": "linear", "logging_steps": 500, "save_steps": 500, "save_total_limit": 1_000_000, "seed": 42,
    "train_modules": "all", "freeze_vision_tower": False, "freeze_llm": False, "multimodal_max_length": 8192,
    "text_max_length": 4096, "single_image_min_pixels": 200704, "single_image_max_pixels": 3211264,
    "multiple_image_min_pixels": 200704, "multiple_image_max_pixels": 802816, "video_min_pixels": 200704,
    "video_max_pixels": 802816, "min_frames": 8, "max_frames": 8, "packing": False, "group_by_length": False,
    "gradient_checkpointing": False, "bf16": False, "fp16": False, "dataloader_num_workers": 0,
    "dataloader_drop_last": False, "dataloader_shuffle": True,
}  # fmt: skip
LORA_DEFAULTS: dict[str, Any] = {
    "lora_r": 32, "lora_alpha": 64, "lora_dropout": 0.1, "learning_rate": 1e-4,
    "lora_target_modules": "q_proj,k_proj,v_proj,o_proj,gate_proj,up_proj,down_proj",
}  # fmt: skip


def with_defaults(given: dict[str, Any]) -> dict[str, Any]:
    """The keys that are given and the others' defaults; a key without a value counts as left out."""
    given = {key: value for key, value in given.items() if value is not None}
    adapts = any(key in given for key in _LORA)
    return {**DEFAULTS, **(LORA_DEFAULTS if adapts else {}), **given}
