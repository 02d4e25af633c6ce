"""Families from outside the repository: a Python file that is named on the command line registers them.

    python run_mindformer.py --custom_register_path my_register.py --model_type my_model …

The names and arguments are those of ms-swift, so that a registration written for it needs few changes::

    register_model_arch(MultiModelKeys("my_model", language_model="model", vision_tower="visual", aligner="merger"))
    register_template(TemplateMeta("my_model", template_cls=MyTemplate, default_system="You are a helpful assistant."))
    register_model(ModelMeta("my_model", template="my_model", model_arch="my_model", base="another", …))

A file that is named by a YAML is never run: what runs code is given by the person who starts the command.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import re
import sys
import traceback
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import Any

from ms_impl import families
from ms_impl.errors import InputError, listed, quote
from ms_impl.families import Family, Reference

Names = str | Sequence[str]

_PACKAGE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_SYSTEM_OPTIONS = ("default_system", "system_message", "system")  # what templates call it
_NEEDED = ("config", "model", "template", "weights", "groups", "config_keys")  # of a family without a base


@dataclass(frozen=True)
class MultiModelKeys:
    """The module groups of a model, by prefixes of parameter names.

    ``aligner`` comes before ``vision_tower``, of which it may be a part. ``generator`` is never trained. The language
    model owns its head, too.
    """

    arch_name: str
    language_model: Names = ()
    vision_tower: Names = ()
    aligner: Names = ()
    generator: Names = ()


@dataclass(frozen=True)
class TemplateMeta:
    """A template, and defaults of its options. An option that its class does not have is refused.

    Args:
        template_type: the name that ``ModelMeta.template`` and ``--template`` have for it.
        template_cls: the class, a ``ms_impl.data.template.Template``; None: that of the model's ``base``.
        default_system: what stands where a conversation has no system message.
        options: further options of the class, by name.
    """

    template_type: str
    prefix: Sequence[Any] | None = None
    prompt: Sequence[Any] | None = None
    chat_sep: Sequence[Any] | None = None
    suffix: Sequence[Any] | None = None
    template_cls: Reference | None = None
    default_system: str | None = None
    stop_words: Sequence[Any] | None = None
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class ModelMeta:
    """A family, whole or as it differs from the one that ``base`` names.

    The first four are ms-swift's: names on hubs are labels, nothing is fetched; ``get_function`` is refused, since
    ``model`` names the class. From ``base`` on they are the fields of ``ms_impl.families.Family``, where what is None
    stays as ``base`` has it. A class may stand itself or as ``module:attribute``.

    A family with a base is found by its name (``--model_type``) unless ``model_types`` are given.
    """

    model_type: str
    model_groups: Any = None
    template: str | None = None
    get_function: Any = None
    model_arch: str | None = None
    architectures: Sequence[str] | None = None
    additional_saved_files: Sequence[str] | None = None
    requires: Sequence[str] | Mapping[str, str] | None = None
    base: str | None = None
    arch: str | None = None
    model_types: Sequence[str] | None = None
    config_keys: Sequence[Sequence[str]] | None = None
    config: Reference | None = None
    model: Reference | None = None
    reference: Reference | None = None
    weights: Reference | None = None
    freeze_keys: Mapping[str, tuple[str, ...]] | None = None
    selectors: Reference | None = None
    embeddings: Sequence[str] | None = None
    output_head: str | None = None
    adapter_prefixes: Sequence[str] | None = None
    vocabulary: Sequence[str] | None = None
    generation: Mapping[str, Any] | None = None
    estimate: str | None = None


_arches: dict[str, MultiModelKeys] = {}
_templates: dict[str, TemplateMeta] = {}


def register_model_arch(model_arch: MultiModelKeys, *, exist_ok: bool = False) -> None:
    """Name module groups. Registering the same twice is harmless, whatever ``exist_ok`` says."""
    _add(_arches, model_arch.arch_name, model_arch, "model_arch")


def register_template(template_meta: TemplateMeta, *, exist_ok: bool = False) -> None:
    """Name a template. Registering the same twice is harmless, whatever ``exist_ok`` says."""
    _add(_templates, template_meta.template_type, template_meta, "template")


def register_model(model_meta: ModelMeta, *, exist_ok: bool = False) -> Family:
    """Register a family. Raises InputError for what it lacks, and for a name that is known as something else."""
    try:
        return families.register(_family(model_meta))
    except ValueError as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"register_model: {error}; choose another model_type") from error


def use_template(family: Family, name: str) -> Family:
    """The family with another template, in its place for the rest of this process (``--template``)."""
    changed = replace(family, **_template_fields(name, family))
    families.all_families()[family.name] = changed
    return changed


def load_custom(path: str | Path) -> list[str]:
    """Run a file that registers families, templates or module groups; returns what families it added.

    The module has its file's name in ``sys.modules``, and its directory comes last in ``sys.path``, where processes
    that are started look for it. Running a file again does nothing.

    Raises:
        InputError: the file is not found, cannot be run, registers nothing, or registers a known name differently.
    """
    file = Path(path)
    if not file.is_file() or file.suffix != ".py":
        raise InputError(f"--custom_register_path: {file} is {'not a .py file' if file.is_file() else 'not found'}")
    file = file.resolve()
    if _is_loaded(file):
        return []
    registries: tuple[dict[str, Any], ...] = (_arches, _templates, families.all_families())
    before = [dict(registry) for registry in registries]
    try:
        _run(file)
        if all(registry == old for registry, old in zip(registries, before)):
            raise InputError("registers nothing; call register_model, register_template or register_model_arch")
    except InputError as error:
        for registry, old in zip(registries, before):
            registry.clear()
            registry.update(old)
        sys.modules.pop(file.stem, None)
        raise InputError(f"--custom_register_path: {file}: {error}") from error
    return sorted(families.all_families().keys() - before[-1].keys())


def _is_loaded(file: Path) -> bool:
    """Whether the file has been run. Raises InputError where its name is that of another module."""
    loaded = sys.modules.get(file.stem)
    if loaded is not None and getattr(loaded, "__file__", None) == str(file):
        return True
    if loaded is None and str(file.parent) not in sys.path:
        try:
            taken = importlib.util.find_spec(file.stem) is not None
        except ValueError:
            taken = True
        loaded = ModuleType(file.stem) if taken else None
    if loaded is not None or not file.stem.isidentifier():
        reason = "is the name of another module" if file.stem.isidentifier() else "is not a name for a module"
        raise InputError(f"--custom_register_path: {file}: {quote(file.stem)} {reason}; rename the file")
    return False


def _run(file: Path) -> None:
    """Import a file under its own name. What it raises comes as an InputError with the line that raised it."""
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[file.stem] = module
    if str(file.parent) not in sys.path:
        sys.path.append(str(file.parent))
    try:
        spec.loader.exec_module(module)
    except InputError:
        raise
    except (Exception, SystemExit) as error:
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(file)]
        where = f"line {lines[-1]}: " if lines else ""
        raise InputError(f"{where}{type(error).__name__}: {str(error)[:200]}") from error


def _add(registry: dict[str, Any], name: str, value: Any, what: str) -> None:
    if registry.setdefault(name, value) != value:
        raise InputError(f"register_{what}: another {what} named {quote(name)} is already registered")


def _family(meta: ModelMeta) -> Family:
    """The record that a registration describes."""
    if meta.get_function is not None:
        raise InputError(f"register_model: {meta.model_type}: get_function is not called here; give model, the class")
    base = families.get(meta.base) if meta.base else None
    fields = _record_fields(meta)
    fields |= _template_fields(meta.template, base) if meta.template else {}
    prefixes = fields.get("adapter_prefixes") or (base.adapter_prefixes if base else ())
    head = fields.get("output_head") or (base.output_head if base else "lm_head")
    fields |= {"groups": _groups(meta.model_arch, prefixes, head)} if meta.model_arch else {}
    arch = meta.arch or "".join(part[:1].upper() + part[1:] for part in re.split(r"\W|_", meta.model_type))
    if not arch.isidentifier():
        raise InputError(f"register_model: {quote(meta.model_type)}: name the class that YAMLs have for it (arch)")
    if others := [f.name for f in families.all_families().values() if f.arch == arch and f.name != meta.model_type]:
        raise InputError(f"register_model: {meta.model_type}: arch {arch} is that of {listed(others)}; give another")
    if base:
        return replace(base, **{"model_types": (), **fields, "name": meta.model_type, "arch": arch})
    if missing := [name for name in _NEEDED if name not in fields]:
        words = [{"groups": "model_arch"}.get(name, name) for name in missing]
        raise InputError(f"register_model: {meta.model_type}: give {listed(words)}, or a base to take them from")
    return Family(**{"model_types": (meta.model_type,), **fields, "name": meta.model_type, "arch": arch})


def _record_fields(meta: ModelMeta) -> dict[str, Any]:
    """What a registration says of a Family's own fields, lists as tuples."""
    known = {each.name for each in dataclasses.fields(Family)} - {"name", "arch", "template"}
    given = {each.name: getattr(meta, each.name) for each in dataclasses.fields(meta) if each.name in known}
    fields = {name: _frozen(value) for name, value in given.items() if value is not None}
    if meta.additional_saved_files is not None:
        fields["saved_files"] = _frozen(meta.additional_saved_files)
    if meta.requires is not None and not isinstance(meta.requires, Mapping):
        fields["requires"] = {_module_of(package): package for package in meta.requires}
    return fields


def _template_fields(name: str, base: Family | None) -> dict[str, Any]:
    """``template`` and ``template_options`` of a record, for the name of a template or of a family that has one."""
    meta = _templates.get(name)
    if meta is None:
        if name not in families.all_families():
            raise InputError(f"unknown template {quote(name)}; known: {listed([*_templates, *families.names()])}")
        other = families.get(name)
        return {"template": other.template, "template_options": other.template_options}
    template = meta.template_cls or (base.template if base else None)
    if template is None:
        raise InputError(f"register_template: {name}: give template_cls; there is no base to take it from")
    known = {each.name for each in dataclasses.fields(families.imported(template).Options)}
    system = next((option for option in _SYSTEM_OPTIONS if option in known), _SYSTEM_OPTIONS[0])
    given = {system: meta.default_system, **meta.options}
    given |= {key: getattr(meta, key) for key in ("prefix", "prompt", "chat_sep", "suffix", "stop_words")}
    options = {key: value for key, value in given.items() if value is not None}
    if unknown := sorted(options.keys() - known):
        raise InputError(f"template {name}: its class has no option {listed(unknown)}; it has {listed(sorted(known))}")
    inherited = base.template_options if base and template == base.template else {}
    return {"template": template, "template_options": {**inherited, **options}}


def _groups(arch: str, adapter_prefixes: Sequence[str], output_head: str) -> dict[str, tuple[str, ...]]:
    """The module groups of a registered name, or of a family; patterns on names with and without adapters' prefixes."""
    if arch not in _arches:
        if arch not in families.all_families():
            raise InputError(f"unknown model_arch {quote(arch)}; known: {listed([*_arches, *families.names()])}")
        return dict(families.get(arch).groups)
    keys = _arches[arch]
    wrappers = [prefix.removeprefix("base_model.model.") for prefix in adapter_prefixes]
    wrappers = [wrapper for wrapper in wrappers if wrapper]
    prefixes = {
        "aligner": _listed(keys.aligner),
        "vision_tower": _listed(keys.vision_tower),
        "language_model": [*_listed(keys.language_model), output_head],
        "generator": _listed(keys.generator),
    }
    return {group: tuple(_patterns(names, wrappers)) for group, names in prefixes.items() if names}


def _patterns(names: Iterable[str], wrappers: Iterable[str]) -> Iterable[str]:
    for name in names:
        for bare in dict.fromkeys([name, *(name.removeprefix(wrapper) for wrapper in wrappers)]):
            yield bare
            yield f"{bare}.*"


def _listed(names: Names) -> list[str]:
    return [names] if isinstance(names, str) else list(names)


def _frozen(value: Any) -> Any:
    """Lists as tuples, also within each other."""
    return tuple(map(_frozen, value)) if isinstance(value, list | tuple) else value


def _module_of(package: str) -> str:
    """The module that ``pip install package`` brings, as far as its name tells."""
    name = _PACKAGE_NAME.match(package.strip())
    if not name:
        raise InputError(f"register_model: requires: {quote(package)} is not the name of a package")
    return name[0].replace("-", "_")
