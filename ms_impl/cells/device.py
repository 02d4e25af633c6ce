"""The one place that asks which device the cells are built for."""

from __future__ import annotations

import mindspore as ms


def on_ascend() -> bool:
    """Whether cells built now will run on an Ascend NPU."""
    return ms.get_context("device_target") == "Ascend"


def is_available(target: str) -> bool:
    """Whether this machine has a device of that kind ("Ascend", "CPU")."""
    return ms.hal.is_available(target)
