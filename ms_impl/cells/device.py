"""The one place that asks which device the cells are built for."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import mindspore as ms

T = TypeVar("T")


def on_ascend() -> bool:
    """Whether cells built now will run on an Ascend NPU."""
    return ms.get_context("device_target") == "Ascend"


def unless_on_ascend(make: Callable[..., T], *arguments: object) -> T | None:
    """A cell that is a loop with a gradient of its own; None on Ascend, where such loops have never run.

    Whoever gets None computes all at once.
    """
    return None if on_ascend() else make(*arguments)


def is_available(target: str) -> bool:
    """Whether this machine has a device of that kind ("Ascend", "CPU")."""
    return ms.hal.is_available(target)
