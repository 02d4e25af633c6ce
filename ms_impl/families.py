"""The registry of model families: one record each, and nothing else in the project knows them by name.

A family's record is ``FAMILY`` in ``ms_impl/<family>/family.py``; ``ms_impl.register`` adds those from outside. Classes
are named as ``module:attribute`` and imported on first use, so that reading a record costs no framework import.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from ms_impl.errors import InputError, listed, quote

logger = logging.getLogger(__name__)

Reference = Any  # "module:attribute", or, in what is registered from outside, the object itself

FREEZE_KEYS = {
    "freeze_llm": ("language_model",),
    "freeze_vit": ("vision_tower",),
    "freeze_aligner": ("aligner",),
}


@dataclass(frozen=True)
class Scope:
    """What of a model is trained: the parts that ``only`` names, or all, without the ``frozen`` module groups."""

    frozen: tuple[str, ...] = ()
    only: tuple[str, ...] = ()


@dataclass(frozen=True)
class Family:
    """What the project needs to know of one model family.

    Recognition: a config.json is of this family if its ``model_type``, where it has one, is one of ``model_types``, and
    it has all keys of one of the sets of ``config_keys``. ``architectures`` decide where several families fit. A family
    without ``model_types`` is found by its name alone.

    Attributes:
        arch: the YAML's name of the model; ``<arch>Config``, ``<arch>ContentTransformTemplate`` and ``<arch>Tokenizer``
            are those of its other classes.
        weights: the declared conversion table.
        groups: patterns on Hugging Face parameter names by module group; the first group that matches a name owns it.
            ``generator`` is never trained.
        untrained: patterns on the names of parameters that no computation uses: they are never trained.
        freeze_keys: keys of the YAML's model_config, and the module groups that each freezes.
        template_options: options of the template where the YAML is silent.
        selectors: a function of the configuration that returns patterns on parameter names by the words that name them
            in grouped_lr_schedule, beside the groups. "": none.
        training: the YAML of the repository that has every key of a training run. "": none.
        sources: conversion tables of layouts that are only read, by the names that ``--source`` has for them.
        embeddings: patterns on the paths of embedding modules.
        output_head: the path of the last linear layer.
        adapter_prefixes: what stands before a module's path in files of adapters; the first that fits is taken.
        vocabulary: patterns of file names, any of which says that a directory has the files of the tokenizer; the file
            found is the YAML's ``tokenizer.vocab_file``.
        saved_files: patterns of further files that belong beside the weights.
        generation: settings of generation where the checkpoint's generation_config.json is silent.
        estimate: the module that describes the model on paper (``parts`` and ``check``). "": none.
        cut_graph: the module that, started as a process, has MindSpore cut the model over devices. "": it is not cut.
        requires: what to ``pip install`` for the template, by the name of the module that it imports.
    """

    name: str
    arch: str
    model_types: tuple[str, ...]
    config_keys: tuple[tuple[str, ...], ...]
    config: Reference
    model: Reference
    template: Reference
    weights: Reference
    groups: Mapping[str, tuple[str, ...]]
    architectures: tuple[str, ...] = ()
    reference: Reference = ""
    training: str = ""
    untrained: tuple[str, ...] = ()
    freeze_keys: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: dict(FREEZE_KEYS))
    selectors: Reference = ""
    template_options: Mapping[str, Any] = field(default_factory=dict)
    sources: Mapping[str, Reference] = field(default_factory=dict)
    embeddings: tuple[str, ...] = ()
    output_head: str = "lm_head"
    adapter_prefixes: tuple[str, ...] = ("base_model.model.",)  # PEFT's wrappers around the model
    vocabulary: tuple[str, ...] = ("tokenizer.json", "vocab.json", "*.tiktoken")
    saved_files: tuple[str, ...] = ()
    generation: Mapping[str, Any] = field(default_factory=dict)
    estimate: str = ""
    cut_graph: str = ""
    requires: Mapping[str, str] = field(default_factory=dict)

    def resolve(self, field: str) -> Any:
        """Import and return the object that ``field`` names.

        Raises InputError with the command that installs it where the template lacks a package.
        """
        if field == "template":
            self.check_packages()
        return imported(getattr(self, field))

    def make_template(
        self, directory: str | Path, config: Any = None, checkpoints: Iterable[str | Path | None] = (), **options: Any
    ) -> Any:
        """The template with the files of a checkpoint directory, or with the vocabulary file that the YAML names.

        A .json is one of several files: its directory is meant. ``checkpoints`` are further directories, before that
        one, which may tell what options the model was trained with; a warning names those that are others now. Raises
        InputError for what is wrong with the files.
        """
        from ms_impl.data import trained_options

        place = Path(directory) if Path(directory).is_dir() else Path(directory).parent
        template = self.resolve("template")
        saved = trained_options.read((*checkpoints, place), template.kept_options)
        given = {**self.template_options, **options, **({"trained": saved} if saved else {})}
        made = template.from_pretrained(place if Path(directory).suffix == ".json" else directory, config, **given)
        for line in trained_options.differences(made, saved):
            logger.warning("%s", line)
        return made

    def check_packages(self) -> None:
        """Raise InputError unless all that ``requires`` names is installed."""
        missing = [package for module, package in self.requires.items() if importlib.util.find_spec(module) is None]
        if missing:
            command = " ".join(f"'{package}'" for package in missing)
            raise InputError(f"{self.name} needs packages that are not installed: pip install {command}")

    @property
    def class_names(self) -> Mapping[str, str]:
        """What YAMLs call the family's classes, by the sections that name them."""
        template = "train_dataset.modal_to_text_transform.model_transform_template"
        return {
            "model.arch": self.arch,
            "model.model_config": f"{self.arch}Config",
            template: f"{self.arch}ContentTransformTemplate",
            "train_dataset.tokenizer": f"{self.arch}Tokenizer",
            "processor.tokenizer": f"{self.arch}Tokenizer",
        }

    def source_weights(self, source: str) -> Any:
        """The conversion table of one of ``sources``."""
        if source not in self.sources:
            known = ", ".join(self.sources) or "none"
            raise InputError(f"--source: family '{self.name}' has no layout '{source}'; it has {known}")
        return imported(self.sources[source])

    def matches(self, config: Mapping[str, Any]) -> bool:
        """Whether a parsed config.json describes a model of this family."""
        if not self.model_types:
            return False
        model_type = config.get("model_type")
        has_keys = any(all(key in config for key in keys) for keys in self.config_keys)
        return (model_type is None or model_type in self.model_types) and has_keys

    def selector_patterns(self, config: Any) -> Mapping[str, tuple[str, ...]]:
        """Patterns on parameter names by the family's own words for them."""
        return imported(self.selectors)(config) if self.selectors else {}

    def group_of(self, parameter: str) -> str:
        """The module group that owns a parameter name."""
        for group, patterns in self.groups.items():
            if any(fnmatchcase(parameter, pattern) for pattern in patterns):
                return group
        raise InputError(f"parameter '{parameter}' belongs to no module group of family '{self.name}'")

    def frozen_groups(self, section: Mapping[str, Any]) -> tuple[str, ...]:
        """The module groups that a YAML's model_config freezes, by ``freeze_keys``."""
        return tuple(group for key, groups in self.freeze_keys.items() if section.get(key) for group in groups)

    def scope(self, section: Mapping[str, Any]) -> Scope:
        """What a YAML's model_config trains."""
        return Scope(self.frozen_groups(section), tuple(section.get("train_only") or ()))

    def named_parts(self, names: Iterable[str], config: Any) -> dict[str, list[str]]:
        """Which of ``names`` each word for a part of the model means: a module group, or one of the family's own.

        A group comes before a selector of its name.
        """
        names = list(names)
        selected = {
            word: [name for name in names if any(fnmatchcase(name, pattern) for pattern in patterns)]
            for word, patterns in self.selector_patterns(config).items()
        }
        return selected | {group: [name for name in names if self.group_of(name) == group] for group in self.groups}

    def trained_names(self, names: Iterable[str], scope: Scope, config: Any) -> list[str]:
        """Those of ``names`` that a run of this scope trains, in order; never what the record says is never trained.

        Raises InputError for a word that means nothing, and where nothing is left.
        """
        names = list(names)
        frozen = self.frozen_names(names, scope.frozen) | self.untrained_names(names)
        if scope.only:
            parts = self.named_parts(names, config)
            if unknown := [word for word in scope.only if word not in parts]:
                near = difflib.get_close_matches(unknown[0], parts, 1, 0)[0]
                raise InputError(
                    f"model.model_config.train_only: unknown part {quote(unknown[0])}; did you mean '{near}'? "
                    f"Known: {listed(parts)}"
                )
            frozen |= set(names).difference(*(parts[word] for word in scope.only))
        if frozen.issuperset(names):
            raise InputError("model.model_config: nothing is left to train")
        return [name for name in names if name not in frozen]

    def frozen_names(self, names: Iterable[str], frozen_groups: Iterable[str]) -> set[str]:
        """Those of ``names`` that lie in one of ``frozen_groups``."""
        frozen = set(frozen_groups)
        if unknown := frozen - set(self.groups):
            known = sorted(self.groups)
            raise InputError(f"family '{self.name}' has no module group {sorted(unknown)}; it has {known}")
        return {name for name in names if self.group_of(name) in frozen}

    def untrained_names(self, names: Iterable[str]) -> set[str]:
        """Those of ``names`` that are never trained."""
        return {name for name in names if any(fnmatchcase(name, pattern) for pattern in self.untrained)}


def imported(reference: Reference) -> Any:
    """The object that ``module:attribute`` names; an object stands for itself."""
    if not isinstance(reference, str):
        return reference
    module, _, attribute = reference.partition(":")
    return getattr(importlib.import_module(module), attribute)


_FAMILIES: dict[str, Family] = {}
_PACKAGE = Path(__file__).resolve().parent


def register(family: Family) -> Family:
    """Add a family. Registering the same record twice is harmless; another record of the same name is an error."""
    if all_families().setdefault(family.name, family) != family:
        raise ValueError(f"a different family named '{family.name}' is already registered")
    return family


def all_families() -> dict[str, Family]:
    """Every family by its name: on first use those of the directories beside this file."""
    if not _FAMILIES:
        for file in sorted(_PACKAGE.glob("*/family.py")):
            family = importlib.import_module(f"ms_impl.{file.parent.name}.family").FAMILY
            _FAMILIES[family.name] = family
    return _FAMILIES


def get(name: str) -> Family:
    """The family of that name (the ``--model`` of the commands)."""
    if name not in all_families():
        raise InputError(f"unknown model {quote(name)}; known: {', '.join(names())}")
    return all_families()[name]


def names() -> list[str]:
    """The names of all families, sorted."""
    return sorted(all_families())


def sources() -> list[str]:
    """What ``--source`` of the conversion may say, for one family or another, sorted."""
    return sorted({source for family in all_families().values() for source in family.sources})


def for_config(config: Mapping[str, Any], source: str, name: str | None = None) -> Family:
    """The family of ``name``, or else the one that a parsed config.json belongs to.

    ``source`` is the file named in the error.
    """
    if name:
        return get(name)
    found = [family for family in all_families().values() if family.matches(config)]
    if len(found) > 1:
        named = set(config.get("architectures") or ())
        found = [family for family in found if named & set(family.architectures)] or found
    if len(found) > 1:
        raise InputError(f"{source}: fits several families, {listed(f.name for f in found)}; name one (--model_type)")
    if not found:
        raise InputError(
            f"{source}: no known model family has model_type={quote(config.get('model_type'))}, "
            f"architectures={quote(config.get('architectures'))}; known: {', '.join(names())}"
        )
    return found[0]
