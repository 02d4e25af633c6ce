"""The registry of model families: one record each, and nothing else in the project knows them by name.

Classes are named as ``module:attribute`` and imported on first use, so that reading a record costs no framework import.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

from ms_impl.errors import InputError, quote


@dataclass(frozen=True)
class Family:
    """What the project needs to know of one model family.

    ``groups`` maps the words fine-tuners use (``language_model``, ``vision_tower``, ``aligner``, ``generator``) to
    patterns on Hugging Face parameter names; the first group that matches a name owns it. ``sources`` are the
    conversion tables of layouts that are only read, by the names that ``--source`` has for them. ``embeddings`` are
    patterns on the paths of embedding modules, ``output_head`` is the path of the last linear layer;
    ``adapter_prefixes`` stand before a module's path in the files of adapters, the first that fits is taken.
    """

    name: str
    model_types: tuple[str, ...]  # config.json's "model_type"
    config_keys: tuple[str, ...]  # keys a config.json of this family always has
    config: str
    model: str
    reference: str
    processor: str
    weights: str  # the declared conversion table
    groups: Mapping[str, tuple[str, ...]]
    training: str  # the YAML of the repository that has every key of a training run
    sources: Mapping[str, str] = field(default_factory=dict)
    embeddings: tuple[str, ...] = ()
    output_head: str = "lm_head"
    adapter_prefixes: tuple[str, ...] = ("base_model.model.",)  # PEFT's wrappers around the model

    def resolve(self, field: str) -> Any:
        """Import and return the object that ``field`` names."""
        return _imported(getattr(self, field))

    def source_weights(self, source: str) -> Any:
        """The conversion table of one of ``sources``."""
        if source not in self.sources:
            known = ", ".join(self.sources) or "none"
            raise InputError(f"--source: family '{self.name}' has no layout '{source}'; it has {known}")
        return _imported(self.sources[source])

    def matches(self, config: Mapping[str, Any]) -> bool:
        """Whether a parsed config.json describes a model of this family."""
        model_type = config.get("model_type")
        return (model_type is None or model_type in self.model_types) and all(k in config for k in self.config_keys)

    def group_of(self, parameter: str) -> str:
        """The module group that owns a parameter name."""
        for group, patterns in self.groups.items():
            if any(fnmatchcase(parameter, pattern) for pattern in patterns):
                return group
        raise InputError(f"parameter '{parameter}' belongs to no module group of family '{self.name}'")

    def frozen_names(self, names: Iterable[str], frozen_groups: Iterable[str]) -> set[str]:
        """Those of ``names`` that lie in one of ``frozen_groups``."""
        frozen = set(frozen_groups)
        if unknown := frozen - set(self.groups):
            known = sorted(self.groups)
            raise InputError(f"family '{self.name}' has no module group {sorted(unknown)}; it has {known}")
        return {name for name in names if self.group_of(name) in frozen}


def _imported(reference: str) -> Any:
    """The object that ``module:attribute`` names."""
    module, _, attribute = reference.partition(":")
    return getattr(importlib.import_module(module), attribute)


_FAMILIES: dict[str, Family] = {}


def register(family: Family) -> Family:
    """Add a family. Registering the same record twice is harmless; another record of the same name is an error."""
    if _FAMILIES.setdefault(family.name, family) != family:
        raise ValueError(f"a different family named '{family.name}' is already registered")
    return family


def get(name: str) -> Family:
    """The family of that name (the ``--model`` of the commands)."""
    if name not in _FAMILIES:
        raise InputError(f"unknown model '{name}'; known: {', '.join(sorted(_FAMILIES))}")
    return _FAMILIES[name]


def names() -> list[str]:
    """The names of all families, sorted."""
    return sorted(_FAMILIES)


def sources() -> list[str]:
    """What ``--source`` of the conversion may say, for one family or another, sorted."""
    return sorted({source for family in _FAMILIES.values() for source in family.sources})


def for_config(config: Mapping[str, Any], source: str) -> Family:
    """The family that a parsed config.json belongs to. ``source`` is the file named in the error."""
    for family in _FAMILIES.values():
        if family.matches(config):
            return family
    raise InputError(
        f"{source}: no known model family has model_type={quote(config.get('model_type'))}, "
        f"architectures={quote(config.get('architectures'))}; known: {', '.join(sorted(_FAMILIES))}"
    )


register(
    Family(
        name="qwenvl",
        model_types=("qwen",),
        config_keys=("visual", "kv_channels", "intermediate_size", "seq_length"),
        config="ms_impl.qwenvl.config:QwenVLConfig",
        model="ms_impl.qwenvl.model:QwenVL",
        reference="torch_ref.qwenvl.model:QwenVL",
        processor="ms_impl.qwenvl.processor:QwenVLProcessor",
        weights="convert.qwenvl:WEIGHTS",
        groups={
            "aligner": ("transformer.visual.attn_pool.*",),
            "vision_tower": ("transformer.visual.*",),
            "language_model": ("transformer.wte.*", "transformer.h.*", "transformer.ln_f.*", "lm_head.*"),
        },
        training="configs/qwenvl/finetune_qwenvl_9.6b_bf16.yaml",
        sources={"mindformers-1.5": "convert.qwenvl_mindformers:WEIGHTS"},
        embeddings=("transformer.wte",),
    )
)
