"""The YAML's ``train_dataset`` as what a batch plan needs to know."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ms_impl.data.batch_plan import PlanSettings


def plan_settings(
    train_dataset: Mapping[str, Any], rows_per_step: int, epochs: int, seed: int, image_slots: int | None
) -> PlanSettings:
    """How a run's rows become steps; ``epochs`` are those of ``runner_config``, each with its repetitions."""
    return PlanSettings(
        epochs=epochs * (train_dataset.get("repeat") or 1),
        rows_per_step=rows_per_step,
        row_length=train_dataset["modal_to_text_transform"]["max_length"],
        seed=seed,
        shuffle=bool(train_dataset["data_loader"].get("shuffle", True)),
        packing=bool(train_dataset.get("packing", False)),
        group_by_length=bool(train_dataset.get("group_by_length", False)),
        image_slots=image_slots,
        drop_remainder=bool(train_dataset.get("drop_remainder", True)),
    )
