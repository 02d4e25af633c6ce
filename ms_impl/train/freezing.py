"""Which parameters of a model are trained."""

from __future__ import annotations

from collections.abc import Iterable

from mindspore import nn

from ms_impl.families import Family, Scope


def freeze(model: nn.Cell, family: Family, groups: Iterable[str]) -> None:
    """Train all but these module groups, and but what the family's record says is never trained."""
    parameters = model.parameters_dict()
    frozen = family.frozen_names(parameters, groups) | family.untrained_names(parameters)
    for name, parameter in parameters.items():
        parameter.requires_grad = name not in frozen


def train_scope(model: nn.Cell, family: Family, scope: Scope) -> None:
    """Train what a scope says of a model that has its configuration as ``config``; InputError as ``trained_names``."""
    parameters = model.parameters_dict()
    trained = set(family.trained_names(parameters, scope, model.config))
    for name, parameter in parameters.items():
        parameter.requires_grad = name in trained
