"""The YAML keys that this project reads itself, and the checks that need no framework.

MindFormers' own sections (``optimizer``, ``runner_config``, ``context`` …) are MindFormers' to check.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from ms_impl import families
from ms_impl.adapters.config import LoraConfig
from ms_impl.errors import InputError
from ms_impl.generate.config import GenerationConfig

Settings = dict[str, Any]

FREEZES = {"freeze_vision": "vision_tower", "freeze_resampler": "aligner", "freeze_llm": "language_model"}

_CLASS = {"type": str, "auto_register": str}
_TOKENIZER = {**_CLASS, "vocab_file": str}
_LORA = {field.name: object for field in dataclasses.fields(LoraConfig)} | {"adapter": str}  # LoraConfig checks them

# Every key of our sections, with the type of its value; a table is a section, or each section of a list.
SECTIONS = {
    "model": {
        "arch": _CLASS,
        "model_config": {
            **_CLASS,
            "config_file": str,
            **dict.fromkeys(FREEZES, bool),
            "compute_dtype": str,
            "param_init_type": str,
            "lora": _LORA,
        },
        "generation_config": {field.name: object for field in dataclasses.fields(GenerationConfig)},
    },
    "processor": {**_CLASS, "tokenizer": _TOKENIZER},
    "train_dataset": {
        "data_loader": {**_CLASS, "annotation_file": (str, list), "shuffle": bool, "num_samples": int},
        "modal_to_text_transform": {
            **_CLASS,
            "max_length": int,
            "model_transform_template": {
                **_CLASS,
                **dict.fromkeys(("mode", "dataset_dir", "system_message"), str),
                **dict.fromkeys(("user_role_name", "assistant_role_name", "user_prompt", "assistant_prompt"), str),
                **dict.fromkeys(("modal_content_padding_size", "image_size"), int),
                "output_columns": list,
                "allow_outside_dataset_dir": bool,
            },
        },
        "modal_content_transforms": {**_CLASS, "mean": list, "std": list, "is_hwc": bool},
        "tokenizer": _TOKENIZER,
        **dict.fromkeys(("modal_content_input_columns", "modal_content_output_columns", "net_input_columns"), list),
        **dict.fromkeys(("num_parallel_workers", "prefetch_size", "batch_size", "repeat", "seed"), int),
        **dict.fromkeys(("python_multiprocessing", "drop_remainder", "numa_enable"), bool),
        **dict.fromkeys(("packing", "group_by_length"), bool),
        "loss_weighting": str,
    },
}
# The same for each data set of ``eval_dataset``, whose names are free.
EVAL_DATASET = {
    "data_loader": {**_CLASS, "annotation_file": str, "num_samples": int},
    **dict.fromkeys(("metric", "dataset_dir"), str),
    **dict.fromkeys(("system_message", "user_role_name", "assistant_role_name", "user_prompt"), str),
    **dict.fromkeys(("batch_size", "max_new_tokens"), int),
}
_ALWAYS = ("trainer.type", "model.arch.type", "model.model_config.type")
_TO_TRAIN = (
    "train_dataset.data_loader.type",
    "train_dataset.data_loader.annotation_file",
    "train_dataset.modal_to_text_transform.type",
    "train_dataset.modal_to_text_transform.max_length",
    "train_dataset.modal_to_text_transform.model_transform_template.type",
    "train_dataset.modal_content_transforms",
    "train_dataset.tokenizer.type",
    "train_dataset_task.type",
)
_TO_ANSWER = ("processor.tokenizer.type",)
_REQUIRED = {"predict": _TO_ANSWER, "eval": (*_TO_ANSWER, "eval_dataset")}  # other run modes train

_REFERENCE = re.compile(r"[A-Za-z_]\w*\.[A-Za-z_]\w*")


def architectures() -> dict[str, families.Family]:
    """Families by the name that ``model.arch.type`` has for them: their model's class name."""
    return {family.model.rpartition(":")[2]: family for family in map(families.get, families.names())}


def family_of(settings: Settings) -> families.Family:
    """The family whose model the settings ask for."""
    known = architectures()
    arch = lookup(settings, "model.arch.type")
    if arch not in known:
        raise InputError(f"model.arch.type: unknown model {arch!r}{suggest(str(arch), known)}")
    return known[arch]


def check_sections(settings: Settings) -> None:
    """Raise InputError for a key of our sections that nothing reads, a value of another type, or a missing key."""
    for name, allowed in SECTIONS.items():
        if settings.get(name) is not None:
            _check_section(settings[name], allowed, name)
    data_sets = settings.get("eval_dataset") or {}
    _check_type(data_sets, dict, "eval_dataset")
    for name, section in data_sets.items():
        _check_section(section, EVAL_DATASET, f"eval_dataset.{name}")
    for key in (*_ALWAYS, *_REQUIRED.get(settings.get("run_mode"), _TO_TRAIN)):
        if lookup(settings, key) is None:
            raise InputError(f"{key}: is missing")


def check_references(settings: Settings, register_path: Path) -> None:
    """Raise InputError unless every ``auto_register`` is ``module.Class`` of a file in the register folder itself."""
    for where, reference in _references(settings, "", set()):
        if not isinstance(reference, str) or not _REFERENCE.fullmatch(reference):
            raise InputError(f"{where}: {reference!r} is refused: expected module.Class of a file in --register_path")
        file = register_path / f"{reference.partition('.')[0]}.py"
        if not file.is_file() or file.resolve().parent != register_path.resolve():
            raise InputError(f"{where}: {reference!r} is refused: {file.name} is no file of {register_path}")


def lookup(settings: Mapping[str, Any], key: str) -> Any:
    """The value at a dotted key, or None."""
    value: Any = settings
    for part in key.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def suggest(word: str, known: Collection[str]) -> str:
    """``; did you mean …?``, or the list of what is known."""
    near = difflib.get_close_matches(word, known, n=1)
    return f"; did you mean '{near[0]}'?" if near else f"; known: {', '.join(known)}"


def _check_section(section: Any, allowed: Mapping[str, Any], where: str) -> None:
    if isinstance(section, list):
        for index, element in enumerate(section):
            _check_section(element, allowed, f"{where}[{index}]")
        return
    if not isinstance(section, dict):
        raise InputError(f"{where}: expected a section with keys, found {section!r}")
    for key, value in section.items():
        if key not in allowed:
            raise InputError(f"{where}: unknown key '{key}'{suggest(str(key), allowed)}")
        if isinstance(allowed[key], dict) and value is not None:
            _check_section(value, allowed[key], f"{where}.{key}")
        elif value is not None:
            _check_type(value, allowed[key], f"{where}.{key}")


def _check_type(value: Any, kind: type | tuple[type, ...], where: str) -> None:
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is int):
        kinds = kind if isinstance(kind, tuple) else (kind,)
        raise InputError(f"{where}: expected a value of type {' or '.join(k.__name__ for k in kinds)}, found {value!r}")


def _references(value: Any, where: str, seen: set[int]) -> Iterator[tuple[str, Any]]:
    """Every ``auto_register`` with its dotted key; sections that YAML aliases share are visited once."""
    if id(value) in seen:
        return
    if isinstance(value, dict | list):
        seen.add(id(value))
        items = value.items() if isinstance(value, dict) else ((f"[{index}]", item) for index, item in enumerate(value))
        for key, item in items:
            place = f"{where}.{key}".lstrip(".")
            if key == "auto_register":
                yield place, item
            else:
                yield from _references(item, place, seen)
