"""What a training run and a checkpoint that it goes on from must have in common."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from ms_impl.data.batch_plan import BatchPlan
from ms_impl.errors import InputError

_SPEAKING = {
    "epochs": "runner_config.epochs",
    "rows_per_step": "ranks × runner_config.batch_size × gradient_accumulation_steps",
    "row_length": "max_length",
    "image_slots": "modal_content_padding_size",
    "shuffle": "data_loader.shuffle",
    "schedule_steps": "lr_schedule.total_steps",
}
_ADVICE = "Set them back, or begin a new run with its weights (--load_checkpoint)"


def describe(
    plan: BatchPlan, digests: Mapping[str, str], weighting: str, schedule_steps: Sequence[int]
) -> dict[str, Any]:
    """The order of the data and the length of the run and of its learning-rate schedules, as state.json keeps them."""
    order = {**dataclasses.asdict(plan.settings), "loss_weighting": weighting}
    settings = {**order, "schedule_steps": list(schedule_steps)}
    return {"files": dict(digests), "settings": settings, "total_steps": plan.total_steps}


def check_same(run: Mapping[str, Any], saved: Mapping[str, Any], source: str) -> None:
    """Raise InputError, naming what differs, unless a run may go on from a checkpoint made by the run ``saved``.

    The number of ranks may differ, as long as a step takes as many rows. Files may have moved.
    """
    files = list(zip(run["files"].items(), saved["files"].items()))
    for (path, digest), (_, before) in files:
        if digest != before:
            raise InputError(f"{path}: the file is not the one that {source} was trained on; begin a new run with it")
    if len(run["files"]) != len(saved["files"]):
        raise InputError(f"{source}: was trained on {len(saved['files'])} files, this run has {len(run['files'])}")
    before = saved["settings"]
    changed = {key: value for key, value in run["settings"].items() if value != before.get(key)}
    if changed:
        told = "; ".join(f"{_SPEAKING.get(key, key)}: {before.get(key)} → {value}" for key, value in changed.items())
        raise InputError(f"{source}: cannot be gone on from, since settings of the run differ: {told}. {_ADVICE}")
    if run["total_steps"] != saved["total_steps"]:
        lengths = f"{saved['total_steps']} steps, this one has {run['total_steps']}"
        raise InputError(f"{source}: the run was one of {lengths}. {_ADVICE}")
