"""What one setting demands of another. Each rule looks at settings whose keys and values have been checked."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ms_impl.adapters.config import LoraConfig
from ms_impl.cli.mindformers_keys import LR_ALIASES, LR_SCHEDULES
from ms_impl.errors import InputError, quote
from ms_impl.families import Family
from ms_impl.generate.config import GenerationConfig
from ms_impl.resources import locate
from ms_impl.train.feed import AFTER_MEDIA, step_columns

Rule = Callable[[Mapping[str, Any], Family], Iterator[str]]

PIXEL_STEPS = ["BatchToTensor", "BatchNormalize"]
_FLAG = "--custom_register_path"
_CUTTING = (1, 2, "SEMI_AUTO_PARALLEL", "AUTO_PARALLEL")
_SMALL_JOBS, _NODE = (1, 2, 4), 8  # ranks of an Ascend job: a part of a node, or whole ones
_WITHOUT_WARM_UP = {"CosineWithWarmUpLR", "CosineAnnealingLR", "CosineAnnealingWarmRestarts"}
_TRAINING = ("train", "finetune")


def relations(settings: Mapping[str, Any], family: Family) -> Iterator[str]:
    """A line for each demand that is not met."""
    rules = _ALWAYS + (_OF_TRAINING if settings["run_mode"] in _TRAINING else _OF_ANSWERING)
    for rule in rules:
        yield from rule(settings, family)


def cuts_model(settings: Mapping[str, Any]) -> bool:
    """Whether the settings ask for semi-automatic parallelism, which CPU does not have."""
    on_cpu = _section(settings, "context").get("device_target") == "CPU"
    return _section(settings, "parallel").get("parallel_mode") in _CUTTING and not on_cpu


def ranks_of(settings: Mapping[str, Any]) -> int:
    """Ranks that ``parallel_config`` asks for."""
    parallel = _section(settings, "parallel_config")
    return (
        parallel.get("data_parallel", 1) * parallel.get("model_parallel", 1) * parallel.get("pipeline_stage", 1)
    )  # fmt: skip


def _section(settings: Mapping[str, Any], *keys: str) -> Mapping[str, Any]:
    for key in keys:
        settings = settings.get(key) or {}
    return settings


def _ranks(settings: Mapping[str, Any], family: Family) -> Iterator[str]:
    if not cuts_model(settings):
        return
    parallel, ranks = _section(settings, "parallel_config"), ranks_of(settings)
    parts = ("data_parallel", "model_parallel", "pipeline_stage")
    product = " × ".join(f"{key} {parallel.get(key, 1)}" for key in parts)
    started = os.environ.get("MS_WORKER_NUM", "") if os.environ.get("MS_ROLE") else ""  # else it may be a leftover
    if settings.get("use_parallel") and started.isdecimal() and int(started) != ranks:
        yield f"parallel_config: {product} must be the number of ranks, {int(started)}"
    elif ranks not in _SMALL_JOBS and ranks % _NODE:
        yield f"parallel_config: {product} makes {ranks} ranks; an Ascend job has 1, 2, 4 or a multiple of {_NODE}"
    stages, micro = parallel.get("pipeline_stage", 1), parallel.get("micro_batch_num", 1)
    if stages > 1 and micro < stages:
        yield f"parallel_config.micro_batch_num: {micro} must be at least pipeline_stage, {stages}"


def _trained(settings: Mapping[str, Any], family: Family) -> Iterator[str]:
    section = _section(settings, "model", "model_config")
    keys = [key for key in family.freeze_keys if section.get(key)]
    left = set(family.groups) - {"generator"} - set(family.frozen_groups(section))
    if not section.get("lora") and not left:
        yield f"model.model_config: {', '.join(keys)} are all True: nothing is left to train"
    if section.get("lora") and section.get("train_only"):
        yield "model.model_config.train_only: lora trains its factors and modules_to_save alone; leave one of them out"


def _classes(settings: Mapping[str, Any], family: Family) -> Iterator[str]:
    """Model and model_config may be classes of the user's own, by auto_register; template and tokenizer may not."""
    for key, name in family.class_names.items():
        section = _section(settings, *key.split("."))
        given = section.get("type")
        own = key.startswith("model.") and section.get("auto_register")
        if given not in (None, name) and not own:
            yield f"{key}.type: {quote(given)} is not {family.name}'s; give {name}, or register a family ({_FLAG})"


def _lora(settings: Mapping[str, Any], family: Family) -> Iterator[str]:
    section = _section(settings, "model", "model_config").get("lora")
    try:
        if section:
            adapter = {"adapter": str(locate(section["adapter"]))} if section.get("adapter") else {}
            LoraConfig.from_section({**section, **adapter}, "model.model_config.lora")
    except InputError as error:
        yield str(error)


def _generation(settings: Mapping[str, Any], family: Family) -> Iterator[str]:
    section = _section(settings, "model", "generation_config")
    try:
        given: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in section.items()
        }
        GenerationConfig(**given)
    except InputError as error:
        yield f"model.generation_config: {error}"


def _schedules(settings: Mapping[str, Any], family: Family) -> Iterator[str]:
    grouped = _section(settings, "grouped_lr_schedule")
    named = {"lr_schedule": settings.get("lr_schedule"), "grouped_lr_schedule.default": grouped.get("default")}
    groups = grouped.get("grouped", [])
    named |= {f"grouped_lr_schedule.grouped[{number}]": group for number, group in enumerate(groups)}
    for where, schedule in named.items():
        if schedule:
            yield from _schedule(where, schedule)
    for number, group in enumerate(groups):
        if not group.get("params"):
            yield f"grouped_lr_schedule.grouped[{number}].params: is missing"
    if grouped and not grouped.get("default"):
        yield "grouped_lr_schedule.default: is missing"


def _schedule(where: str, schedule: Mapping[str, Any]) -> Iterator[str]:
    name = LR_ALIASES.get(schedule["type"], schedule["type"])
    if name not in LR_SCHEDULES:
        return
    required = [key for key in ("learning_rate", "base_lr", "t_max", "t_0") if key in LR_SCHEDULES[name]]
    yield from (f"{where}.{key}: is missing" for key in required if key not in schedule)
    if name not in _WITHOUT_WARM_UP and not {"warmup_steps", "warmup_ratio"} & set(schedule):
        yield f"{where}.warmup_ratio: is missing; {name} needs it or warmup_steps"
    if schedule.get("warmup_epochs") and "warmup_ratio" not in schedule:
        yield f"{where}.warmup_ratio: is missing; warmup_epochs needs it"
    if name == "WarmUpStableDecayLR" and not {"decay_start_steps", "decay_start_ratio"} & set(schedule):
        yield f"{where}.decay_start_ratio: is missing; {name} needs it or decay_start_steps"
    end, rate = schedule.get("lr_end", 1e-7), schedule.get("learning_rate")
    if name == "PolynomialWithWarmUpLR" and rate is not None and rate <= end:
        yield f"{where}.lr_end: {end:g} must be below learning_rate, {rate:g}"


def _data(settings: Mapping[str, Any], family: Family) -> Iterator[str]:
    data = _section(settings, "train_dataset")
    if (steps := data.get("modal_content_transforms")) is not None:
        normalised = [step.get("type") for step in steps] == PIXEL_STEPS and {"mean", "std"} <= steps[1].keys()
        if not normalised or steps[1].get("is_hwc"):
            expected = " and ".join(PIXEL_STEPS)
            yield f"train_dataset.modal_content_transforms: expected {expected} with mean, std, is_hwc: False"
    every = step_columns(family.resolve("template"))
    named = [column for column in every if column not in AFTER_MEDIA or column == "labels"]  # the others follow
    template = data["modal_to_text_transform"]["model_transform_template"]
    for key, columns in (
        ("net_input_columns", data.get("net_input_columns")),
        ("modal_to_text_transform.model_transform_template.output_columns", template.get("output_columns")),
    ):
        if columns is not None and not set(named) <= set(columns) <= set(every):
            yield f"train_dataset.{key}: expected {', '.join(named)}; found {', '.join(columns)[:200]}"
    again = _section(settings, "train_dataset_task").get("dataset_config")
    if again is not None and again is not data and again != data:
        yield "train_dataset_task.dataset_config: differs from train_dataset, which is what is read; leave it out"


def _callbacks(settings: Mapping[str, Any], family: Family) -> Iterator[str]:
    types = [callback["type"] for callback in settings.get("callbacks", [])]
    for name in ("CheckpointMonitor", "LossRecorder", "MFLossMonitor"):
        if types.count(name) > 1:
            yield f"callbacks: has {types.count(name)} of type {name}; keep one"


def _not_supported(settings: Mapping[str, Any], family: Family) -> Iterator[str]:
    if _section(settings, "recompute_config").get("select_recompute"):
        yield "recompute_config.select_recompute: is not supported; recompute: True does all layers"
    if _section(settings, "optimizer").get("use_fused"):
        yield "optimizer.use_fused: is not supported; take the key out"


def _jit_level(settings: Mapping[str, Any], family: Family) -> Iterator[str]:
    """MindFormers 1.9.0, core/context/build_context.py, refuses these where nothing is trained."""
    context = _section(settings, "context")
    if context.get("device_target") == "CPU":
        return  # is taken out there
    jit = {**context, **_section(settings, "context", "jit_config")}
    level, boost = jit.get("jit_level", "O0"), jit.get("infer_boost", "on")
    if level == "O1" or level == "O2" and boost == "on":
        yield f"context.jit_config.jit_level: {level} is not supported in run_mode {settings['run_mode']}; give O0"


_ALWAYS: tuple[Rule, ...] = (_classes, _ranks, _generation)
_OF_TRAINING: tuple[Rule, ...] = (_trained, _lora, _schedules, _data, _callbacks, _not_supported)
_OF_ANSWERING: tuple[Rule, ...] = (_jit_level,)
