"""What a training run and a checkpoint that it resumes from must have in common, and what of a run may change.

A run's identity is what its steps take: the encoded samples in their order, in rows, and how their losses are weighed.
That is compared as a digest; the settings that lead to it are kept too, to name what differs.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ms_impl.data.batch_plan import BatchPlan
from ms_impl.errors import InputError, quote

_KEYS = {
    "epochs": "runner_config.epochs",
    "rows_per_step": "ranks × runner_config.batch_size × gradient_accumulation_steps",
    "row_length": "max_length",
    "shuffle": "data_loader.shuffle",
    "schedule_steps": "lr_schedule.total_steps",
}
# What of a YAML a resumed run may have otherwise; differences are printed.
_FREE = ("optimizer", "lr_schedule", "grouped_lr_schedule", "runner_wrapper", "model.model_config", "context.mode")
# Where files lie and how many threads read them changes no step.
_OF_NO_MATTER = (
    "config_file", "vocab_file", "annotation_file", "path", "dataset_dir", "num_parallel_workers", "prefetch_size",
    "python_multiprocessing", "numa_enable", "batch_size",
    "allow_outside_dataset_dir", "output_columns", "mode",
)  # fmt: skip
_ADVICE = "Set them back, or start a new run with its weights (--load_checkpoint)"
_TOLD = 10  # differences, in a message
_LONGEST_KEY = 150  # characters
_VERSION = 2  # of the names of settings
_SHAPE = {"files": dict, "settings": dict, "total_steps": int}  # of a state.json


def settings_of(config: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The settings of a YAML that a checkpoint keeps, by dotted key: of the ``data``, and those that are ``free``."""
    free = {key: value for section in _FREE for key, value in _leaves(_at(config, section), section)}
    return {"data": dict(_leaves(config.get("train_dataset"), "train_dataset")), "free": free}


def describe(
    plan: BatchPlan,
    order: str,
    files: Mapping[str, str],
    weighting: str,
    schedule_steps: Sequence[int],
    options: Any = None,
    kept: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """A run's identity and settings, as state.json keeps them.

    Args:
        order: the digest of the encoded samples in their order.
        files: the sha256 of each file of records, by its path.
        schedule_steps: the lengths of the learning-rate schedules.
        options: those of the template, a dataclass.
        kept: what ``settings_of`` says of the YAML.
    """
    template = {f"template.{key}": value for key, value in dataclasses.asdict(options).items()} if options else {}
    kept_options = {key: value for key, value in template.items() if key.rpartition(".")[2] not in _OF_NO_MATTER}
    others = {"loss_weighting": weighting, "schedule_steps": list(schedule_steps)}
    settings = {**dataclasses.asdict(plan.settings), **others, **kept_options}
    identity = {
        "version": _VERSION,
        "files": dict(files),
        "settings": settings,
        "total_steps": plan.total_steps,
        "order": order,
    }
    return json.loads(
        json.dumps({**identity, **(kept or {"data": {}, "free": {}})})
    )  # tuples as lists, as it is read back


def check_same(run: Mapping[str, Any], saved: Mapping[str, Any], source: str) -> list[str]:
    """Raise InputError, naming what differs, unless a run may resume from a checkpoint made by the run ``saved``.

    The number of ranks may differ, as long as a step takes as many rows. Files may have moved.

    Returns:
        A line for each setting that differs and may.
    """
    for key, kind in _SHAPE.items():
        if not isinstance(saved.get(key), kind) or saved[key] == {}:
            raise InputError(f"{source}: its state.json has no '{key}'; the checkpoint is damaged")
    data, free = (saved[key] if isinstance(saved.get(key), dict) else {} for key in ("data", "free"))
    _check_files(run["files"], saved["files"], source)
    changed = _differences(run["settings"], _of_this_version(run, saved, source), _KEYS)
    if "order" in saved and run["order"] != saved["order"]:
        changed += _differences(run["data"], data) or ([] if changed else ["the samples as they are encoded"])
    if changed:
        told = "; ".join(changed[:_TOLD]) + (f" and {len(changed) - _TOLD} more" if len(changed) > _TOLD else "")
        raise InputError(f"{source}: cannot be resumed, since settings of the run differ: {told}. {_ADVICE}")
    if run["total_steps"] != saved["total_steps"]:
        lengths = f"{quote(saved['total_steps'])} steps, this one has {run['total_steps']}"
        raise InputError(f"{source}: the run was one of {lengths}. {_ADVICE}")
    return _differences({**run["data"], **run["free"]}, {**data, **free})


def _of_this_version(run: Mapping[str, Any], saved: Mapping[str, Any], source: str) -> dict[str, Any]:
    """The saved settings; those that an earlier version named otherwise are this run's: the order tells them apart."""
    if "version" not in saved:
        return {**run["settings"], **{key: value for key, value in saved["settings"].items() if key in run["settings"]}}
    if saved["version"] != _VERSION:
        raise InputError(f"{source}: its state.json is of version {quote(saved['version'])}; this is {_VERSION}")
    return saved["settings"]


def _check_files(run: Mapping[str, str], saved: Mapping[str, str], source: str) -> None:
    for (path, digest), before in zip(run.items(), saved.values()):
        if digest != before:
            raise InputError(f"{path}: the file is not the one that {source} was trained on; start a new run with it")
    if len(run) != len(saved):
        raise InputError(f"{source}: was trained on {len(saved)} files, this run has {len(run)}")


def _differences(now: Mapping[str, Any], before: Mapping[str, Any], names: Mapping[str, str] = {}) -> list[str]:
    if not before:  # saved by a version that did not keep them
        return []
    keys = [*now, *(key for key in before if key not in now)]
    differ = [key for key in keys if now.get(key) != before.get(key)]
    return [
        f"{names.get(key, key[:_LONGEST_KEY])}: {_shown(before.get(key))} → {_shown(now.get(key))}" for key in differ
    ]


def _shown(value: Any) -> str:
    return "none" if value is None else value[:100] if isinstance(value, str) else quote(value)


def _at(config: Mapping[str, Any], key: str) -> Any:
    value: Any = config
    for part in key.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def _leaves(value: Any, key: str) -> Iterator[tuple[str, Any]]:
    """Every setting below ``key`` that is no section."""
    if key.rpartition(".")[2] in _OF_NO_MATTER and not isinstance(value, list):
        return
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _leaves(inner, f"{key}.{name}")
    elif isinstance(value, list) and any(isinstance(element, Mapping) for element in value):
        for number, element in enumerate(value):
            yield from _leaves(element, f"{key}[{number}]")
    elif isinstance(value, bool | int | float | str | list) and not key.endswith("annotation_file"):
        yield key, value  # objects are MindFormers' own additions
