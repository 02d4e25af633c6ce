"""``sft``'s arguments as the settings of a run: the YAML that run_mindformer.py would be given."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from ms_impl.adapters.config import ALL_LINEAR
from ms_impl.cli.swift.arguments import DELETE, Given
from ms_impl.cli.swift.datasets import Split
from ms_impl.cli.yaml_reader import read_yaml
from ms_impl.errors import InputError
from ms_impl.families import Family
from ms_impl.resources import locate

_SCHEDULES = {"cosine": "CosineWithWarmUpLR", "linear": "LinearWithWarmUpLR"}  # else it stays constant
_ROWS_OF_A_STEP = 16  # that ms-swift aims at where gradient_accumulation_steps is not given
_ALL = 1_000_000  # checkpoints that are kept where no limit is given
_RATES = {"lora": 1e-4, "full": 1e-5}
_FREEZING = {"freeze_llm": "language_model", "freeze_vit": "vision_tower", "freeze_aligner": "aligner"}

Settings = dict[str, Any]


def settings_of(
    given: Given, family: Family, config: Any, split: Split, output: str, ranks: int, device: str
) -> Settings:
    """The settings of a training run on ``ranks`` devices. Raises InputError for a value that no setting has."""
    data = _data(given, family, config, split)
    return {
        "seed": given.seed,
        "output_dir": output,
        "run_mode": "finetune",
        "load_checkpoint": given.model,
        "resume_training": False,
        "use_parallel": ranks > 1,
        "trainer": {"type": "MultiModalToTextGenerationTrainer", "model_name": family.name},
        "train_dataset": data,
        "train_dataset_task": {"type": "ModalToTextSFTDataset", "dataset_config": data},
        "model": {"arch": {"type": family.arch}, "model_config": _model(given, family)},
        "runner_config": _runner(given, ranks),
        "runner_wrapper": _step(given),
        "optimizer": _optimizer(given),
        "lr_schedule": _schedule(given),
        "callbacks": _callbacks(given),
        "recompute_config": {"recompute": given.gradient_checkpointing},
        "context": {"mode": 0, "device_target": device},
        "parallel": {"parallel_mode": 0, "full_batch": False},
    }


def notes_of(given: Given, ranks: int) -> list[str]:
    """A line for each argument that is taken in another sense than ms-swift's."""
    notes = []
    if given.truncation_strategy == DELETE:
        notes.append("--truncation_strategy delete: a longer record is an error that names it, and not left out")
    if given.padding_free and not given.packing:
        notes.append("--padding_free has no effect without --packing: rows are padded to one shape, losses are equal")
    if "gradient_accumulation_steps" not in given.named:
        notes.append(f"--gradient_accumulation_steps {_accumulation(given, ranks)}, as ms-swift's default makes it")
    if not given.dataloader_drop_last:
        notes.append("the last step is filled up with empty rows")
    return notes


def _runner(given: Given, ranks: int) -> Settings:
    epochs = given.num_train_epochs
    if epochs < 1 or epochs != int(epochs):
        raise InputError(f"--num_train_epochs must be whole, 1 or more, not {epochs:g}; take fewer records as FILE#N")
    rows = {"batch_size": given.per_device_train_batch_size, "gradient_accumulation_steps": _accumulation(given, ranks)}
    return {"epochs": int(epochs), **rows, "sink_mode": False}


def _step(given: Given) -> Settings:
    norm = given.max_grad_norm
    clipping = {"use_clip_grad": True, "max_grad_norm": norm} if norm > 0 else {"use_clip_grad": False}
    return {"type": "MFTrainOneStepCell", "scale_sense": _loss_scale(given.torch_dtype), **clipping}


def _optimizer(given: Given) -> Settings:
    betas = [given.adam_beta1, given.adam_beta2]
    return {"type": "AdamW", "betas": betas, "eps": given.adam_epsilon, "weight_decay": given.weight_decay}


def _callbacks(given: Given) -> list[Settings]:
    kept = given.save_total_limit or _ALL
    return [
        {"type": "MFLossMonitor", "per_print_times": given.logging_steps},
        {"type": "LossRecorder"},
        {"type": "CheckpointMonitor", "save_checkpoint_steps": given.save_steps, "keep_checkpoint_max": kept},
    ]


def _accumulation(given: Given, ranks: int) -> int:
    rows = given.per_device_train_batch_size * ranks
    if rows < 1:
        raise InputError("--per_device_train_batch_size must be 1 or more, not 0")
    return given.gradient_accumulation_steps or math.ceil(_ROWS_OF_A_STEP / rows)


def _loss_scale(dtype: str | None) -> Any:
    if dtype != "float16":
        return 1.0
    return {"type": "DynamicLossScaleUpdateCell", "loss_scale_value": 65536, "scale_factor": 2, "scale_window": 1000}


def _schedule(given: Given) -> Settings:
    kind = _SCHEDULES.get(given.lr_scheduler_type, "ConstantWarmUpLR")
    rate = _RATES[given.train_type] if given.learning_rate is None else given.learning_rate
    warm = {"warmup_ratio": given.warmup_ratio} if not given.warmup_steps else {"warmup_steps": given.warmup_steps}
    end = {"lr_end": 0.0} if kind == "CosineWithWarmUpLR" else {}
    return {"type": kind, "learning_rate": rate, **end, **warm, "total_steps": -1}


def _model(given: Given, family: Family) -> Settings:
    """Freezing, or the adapter's settings, and element types."""
    dtype = given.torch_dtype or "bfloat16"
    section: Settings = {"type": f"{family.arch}Config", "compute_dtype": dtype, "param_init_type": dtype}
    frozen = [key for key in _FREEZING if getattr(given, key)]
    if given.train_type == "full":
        return section | {key: key in frozen for key in _FREEZING if key in family.freeze_keys}
    return section | {"lora": _lora(given, family, {_FREEZING[key] for key in frozen})}


def _lora(given: Given, family: Family, frozen: set[str]) -> Settings:
    """All linear layers of what is not frozen, but for the output head; or the modules that are named, wherever."""
    targets: Any = list(given.target_modules)
    excluded: Settings = {}
    if given.target_regex is not None:
        targets = given.target_regex
    elif targets == [ALL_LINEAR]:
        targets = [group for group in family.groups if group in _FREEZING.values() and group not in frozen]
        excluded = {"exclude_modules": [family.output_head]}
        if not targets:
            raise InputError("--freeze_llm, --freeze_vit and --freeze_aligner are all true: nothing is left to adapt")
    return {
        "r": given.lora_rank,
        "lora_alpha": given.lora_alpha,
        "lora_dropout": given.lora_dropout,
        "target_modules": targets,
        **excluded,
        **({"use_rslora": True} if given.use_rslora else {}),
        **({"modules_to_save": list(given.modules_to_save)} if given.modules_to_save else {}),
        **({"adapter": given.adapters[0]} if given.adapters else {}),
    }


def _data(given: Given, family: Family, config: Any, split: Split) -> Settings:
    options = {field.name for field in dataclasses.fields(family.resolve("template").Options)}
    template: Settings = {"type": f"{family.arch}ContentTransformTemplate"}
    if "truncation_strategy" in options:
        template["truncation_strategy"] = given.truncation_strategy
    if given.system is not None:
        template[_system_option(options)] = given.system
    return {
        "data_loader": {
            "type": "BaseMultiModalDataLoader",
            "annotation_file": list(split.train),
            "shuffle": given.dataset_shuffle,
        },
        "num_parallel_workers": max(given.dataloader_num_workers, 1),
        "packing": given.packing,
        "group_by_length": given.group_by_length and not given.packing,
        "drop_remainder": given.dataloader_drop_last,
        "modal_to_text_transform": {
            "type": "BaseXModalToTextTransform",
            "max_length": given.max_length or config.max_position_embeddings,
            "model_transform_template": template,
        },
        **_colours(family, options),
        "tokenizer": {"type": f"{family.arch}Tokenizer"},
    }


def _system_option(options: set[str]) -> str:
    for name in ("default_system", "system_message", "system"):
        if name in options:
            return name
    raise InputError("--system: this model's template has no system message; leave it out")


def _colours(family: Family, options: set[str]) -> Mapping[str, Any]:
    """What a family says of colours in its own YAML, where its template wants to be told."""
    key = "modal_content_transforms"
    if not {"mean", "std"} & options or not family.training:
        return {}
    return {key: read_yaml(locate(family.training))["train_dataset"][key]}
