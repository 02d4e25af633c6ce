"""The checks of settings that need no framework: keys, values, and what one setting demands of another."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ms_impl import families
from ms_impl.cli.keys import required, settings_schema
from ms_impl.cli.kinds import Findings, suggest
from ms_impl.cli.relations import relations
from ms_impl.errors import InputError, quote

Settings = dict[str, Any]

_REFERENCE = re.compile(r"[A-Za-z_]\w*\.[A-Za-z_]\w*")
_MOST_FAULTS = 12  # that are listed


def architectures() -> dict[str, families.Family]:
    """Families by the name that ``model.arch.type`` has for them."""
    return {family.arch: family for family in families.all_families().values()}


def family_of(settings: Settings) -> families.Family:
    """The family whose model the settings ask for."""
    known = architectures()
    arch = lookup(settings, "model.arch.type")
    if not isinstance(arch, str) or arch not in known:
        raise InputError(f"model.arch.type: unknown model {quote(arch)}{suggest(arch, known)}")
    return known[arch]


def drop_empty(section: Any) -> None:
    """Take out keys without a value: they count as not given. Sections may stand at several places."""
    values = section.values() if isinstance(section, dict) else section if isinstance(section, list) else ()
    if isinstance(section, dict):
        for key in [key for key, value in section.items() if value is None]:
            del section[key]
    for value in values:
        drop_empty(value)


def check_settings(settings: Settings) -> list[str]:
    """Check every key and value, and what they demand of each other; returns the keys that have no effect.

    Raises InputError listing what is wrong.
    """
    findings = Findings()
    if "custom_register_path" in settings:
        raise InputError("custom_register_path: is taken from the command line alone, for it runs the file")
    family = family_of(settings)
    settings_schema(family).check(settings, "", findings)
    for key in required(settings["run_mode"], family):
        if lookup(settings, key) is None:
            findings.wrong(key, "is missing")
    if not findings.faults:
        findings.faults += relations(settings, family)
    raise_all(findings.faults)
    return findings.idle


def raise_all(faults: list[str]) -> None:
    """Raise one InputError for all faults, if there are any."""
    faults = list(dict.fromkeys(faults))
    if len(faults) == 1:
        raise InputError(faults[0])
    if faults:
        shown = faults[:_MOST_FAULTS] + ([f"and {len(faults) - _MOST_FAULTS} more"] if faults[_MOST_FAULTS:] else [])
        raise InputError("\n  ".join([f"{len(faults)} settings are wrong:", *shown]))


def check_references(settings: Settings, register_path: Path) -> None:
    """Raise InputError unless every ``auto_register`` is ``module.Class`` of a file in the register folder itself."""
    for where, reference in _references(settings, "", set()):
        if not isinstance(reference, str) or not _REFERENCE.fullmatch(reference):
            raise InputError(
                f"{where}: {quote(reference)} is refused: expected module.Class of a file in --register_path"
            )
        file = register_path / f"{reference.partition('.')[0]}.py"
        if not file.is_file() or file.resolve().parent != register_path.resolve():
            raise InputError(f"{where}: {quote(reference)} is refused: {file.name} is not a file of {register_path}")


def lookup(settings: Mapping[str, Any], key: str) -> Any:
    """The value at a dotted key, or None."""
    value: Any = settings
    for part in key.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def _references(value: Any, where: str, seen: set[int]) -> Iterator[tuple[str, Any]]:
    """Every ``auto_register`` with its dotted key; sections that YAML aliases share are visited once."""
    if id(value) in seen:
        return
    if isinstance(value, dict | list):
        seen.add(id(value))
        items = value.items() if isinstance(value, dict) else ((f"[{index}]", item) for index, item in enumerate(value))
        for key, item in items:
            place = f"{where}.{key}".lstrip(".")
            if key == "auto_register":
                yield place, item
            else:
                yield from _references(item, place, seen)
