"""The one place that asks which device the cells are built for."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import mindspore as ms

from ms_impl.errors import InputError, quote

T = TypeVar("T")


def on_ascend() -> bool:
    """Whether cells built now will run on an Ascend NPU."""
    return ms.get_context("device_target") == "Ascend"


def unless_on_ascend(make: Callable[..., T], *arguments: object) -> T | None:
    """A cell with a gradient of its own; None on Ascend, where such have never run.

    Whoever gets None computes by plain operators.
    """
    return None if on_ascend() else make(*arguments)


def graphs_are_cut() -> bool:
    """Whether MindSpore cuts the graphs that are compiled now among the ranks."""
    cutting = (ms.ParallelMode.SEMI_AUTO_PARALLEL, ms.ParallelMode.AUTO_PARALLEL)
    return ms.get_auto_parallel_context("parallel_mode") in cutting


def choose_device(name: str) -> None:
    """Run what is built from now on on ``cpu`` or ``ascend`` (also ``npu``), in upper case or lower.

    Raises InputError for another device, or one that this machine does not have.
    """
    target = {"cpu": "CPU", "ascend": "Ascend", "npu": "Ascend"}.get(name.lower() if isinstance(name, str) else "")
    if target is None:
        raise InputError(f"device: unknown device {quote(name)}; known: cpu, ascend, npu")
    if not is_available(target):
        raise InputError(f"device: this machine has no {target}; leave it out, or take cpu")
    if ms.get_context("device_target") != target:
        ms.set_device(target)


def is_available(target: str) -> bool:
    """Whether this machine has a device of that kind ("Ascend", "CPU")."""
    return ms.hal.is_available(target)
