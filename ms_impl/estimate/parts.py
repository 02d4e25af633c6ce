"""A model as an estimate sees it: its parts in forward order, each with its weights, its work and what it keeps."""

from __future__ import annotations

import importlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from ms_impl.adapters.config import LoraConfig
from ms_impl.adapters.targets import linear_layers, make_plan
from ms_impl.errors import InputError
from ms_impl.estimate.plan import RunLayout
from ms_impl.estimate.shape import Part
from ms_impl.families import Family, Scope
from ms_impl.io.rules import MINDSPORE


@dataclass(frozen=True)
class Trained:
    """A part with what of it is trained.

    Attributes:
        own: numbers of its own weights that are trained.
        added: shapes of LoRA factors in it, by name.
        reached: whether gradients pass through it to something trained before it.
    """

    part: Part
    own: int
    added: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    reached: bool = False

    @property
    def trained(self) -> int:
        return self.own + sum(map(math.prod, self.added.values()))

    @property
    def backward(self) -> bool:
        """Whether the backward pass comes here."""
        return self.reached or self.trained > 0

    @property
    def numbers(self) -> int:
        """All its weights, LoRA factors too."""
        return self.part.size + sum(map(math.prod, self.added.values()))


def model_parts(family: Family, config_file: Path, plan: RunLayout) -> list[Trained]:
    """The parts of the model that a run trains, in forward order; weights and shapes are the conversion table's.

    Raises:
        InputError: the configuration cannot be read, or a LoRA target matches nothing.
    """
    config = family.resolve("config").from_file(config_file)
    shapes = family.resolve("weights").shapes(config, MINDSPORE)
    parts = _description(family).parts(config, plan, shapes)
    trained, factors = _trained(family, config, plan, shapes)
    marked, reached = [], False
    for part in parts:
        own = sum(math.prod(shape) for name, shape in part.weights.items() if name in trained)
        added = {name: shape for name, shape in factors.items() if _weight_of(name) in part.weights}
        marked.append(Trained(part, own, added, reached))
        reached = marked[-1].backward
    return marked


def trained_names(family: Family, config_file: Path, plan: RunLayout) -> list[str]:
    """Names of all that is trained, LoRA factors too."""
    config = family.resolve("config").from_file(config_file)
    shapes = family.resolve("weights").shapes(config, MINDSPORE)
    trained, factors = _trained(family, config, plan, shapes)
    return [*trained, *factors]


def check(family: Family, config_file: Path, plan: RunLayout) -> None:
    """Raise InputError where the model cannot be cut over devices as ``plan`` says."""
    _description(family).check(family.resolve("config").from_file(config_file), plan)


def _description(family: Family) -> ModuleType:
    """The family's own page of the estimate: ``parts`` and ``check``."""
    if not family.estimate:
        raise InputError(f"family '{family.name}' is not described on paper; its record names no estimate")
    return importlib.import_module(family.estimate)


def _trained(
    family: Family, config: Any, plan: RunLayout, shapes: Mapping[str, tuple[int, ...]]
) -> tuple[set[str], Mapping[str, tuple[int, ...]]]:
    """Names of the weights that are trained, and shapes of the LoRA factors by name."""
    if not plan.lora:
        return set(family.trained_names(shapes, Scope(plan.frozen, plan.only), config)), {}
    settings = LoraConfig.from_section(plan.lora, "model.model_config.lora")
    adapter = make_plan(settings, family, shapes, linear_layers(shapes, family))
    return set(adapter.whole), adapter.factors


def _weight_of(factor: str) -> str:
    return f"{factor.rsplit('.lora_', 1)[0]}.weight"
