"""MindFormers' classes of every family, made from its record: no family has a module here.

A YAML's ``model_config.type`` and ``arch.type`` name them, ``<arch>Config`` and ``<arch>`` (``Family.class_names``).
Template and tokenizer are ours throughout: MindFormers never builds them.
"""

from __future__ import annotations

from functools import cache

from mindformers.tools.register import MindFormerModuleType, MindFormerRegister

from ms_impl import families
from ms_impl.plugin.model import ModelSection, TrainerModel


@cache
def config_class(name: str) -> type[ModelSection]:
    """The class of the YAML's ``model.model_config`` for the family of a name."""
    family = families.get(name)
    return type(f"{family.arch}Config", (ModelSection,), {"family": family, "__module__": __name__})


@cache
def model_class(name: str) -> type[TrainerModel]:
    """The class of the YAML's ``model.arch`` for the family of a name."""
    return type(families.get(name).arch, (TrainerModel,), {"__module__": __name__})


def register_families() -> None:
    """Have MindFormers find the classes of every family that is known."""
    for name in families.names():
        MindFormerRegister.register_cls(config_class(name), MindFormerModuleType.CONFIG)
        MindFormerRegister.register_cls(model_class(name), MindFormerModuleType.MODELS)
