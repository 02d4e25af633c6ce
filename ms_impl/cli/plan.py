"""The YAML's ``train_dataset`` as what a template and a batch plan need to know."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from ms_impl.data.batch_plan import PlanSettings
from ms_impl.data.template import Template
from ms_impl.families import Family

_NOT_OPTIONS = ("type", "auto_register")


def training_template(family: Family, config: Any, train_dataset: Mapping[str, Any]) -> Template:
    """The family's template with the options of a ``train_dataset``. Raises InputError naming what is wrong."""
    transform = train_dataset["modal_to_text_transform"]
    section = transform["model_transform_template"]
    options = {key: value for key, value in section.items() if key not in _NOT_OPTIONS and value is not None}
    colours = _normalisation(train_dataset, family.resolve("template").Options)
    given = {"max_length": transform["max_length"], **colours, **options}
    return family.make_template(train_dataset["tokenizer"]["vocab_file"], config, **given)


def plan_settings(
    train_dataset: Mapping[str, Any], rows_per_step: int, epochs: int, seed: int, template: Template
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
        capacities=dict(template.capacities),
        drop_remainder=bool(train_dataset.get("drop_remainder", True)),
    )


def _normalisation(train_dataset: Mapping[str, Any], options: type) -> dict[str, Any]:
    """Mean and deviation of the colours, which are taken off in one go when an image is read, if the template asks."""
    known = {field.name for field in dataclasses.fields(options)}
    steps = train_dataset.get("modal_content_transforms") or ()
    return {key: tuple(steps[-1][key]) for key in ("mean", "std") if steps and key in known}
