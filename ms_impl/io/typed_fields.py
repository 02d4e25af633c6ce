"""The keys of a configuration file, declared once: a field of a dataclass says its type and its range.

A field without one of these declarations is read by the dataclass itself.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import MISSING, dataclass
from typing import Any

from ms_impl.errors import InputError, quote

_KEY = "declared"


@dataclass(frozen=True)
class Whole:
    """A whole number in a range; ``true`` and 2.0 are none."""

    low: int
    high: int

    def holds(self, value: Any) -> bool:
        return type(value) is int and self.low <= value <= self.high

    def __str__(self) -> str:
        return f"a whole number from {self.low:,} to {self.high:,}"


@dataclass(frozen=True)
class Real:
    """A finite number in a range."""

    low: float
    high: float

    def holds(self, value: Any) -> bool:
        return type(value) in (int, float) and self.low <= value <= self.high and math.isfinite(value)

    def __str__(self) -> str:
        return f"a number from {self.low:g} to {self.high:g}"


@dataclass(frozen=True)
class Truth:
    """``true`` or ``false``."""

    def holds(self, value: Any) -> bool:
        return type(value) is bool

    def __str__(self) -> str:
        return "true or false"


def whole(low: int, high: int, default: Any = MISSING) -> Any:
    """A field for a whole number from ``low`` to ``high``."""
    return dataclasses.field(default=default, metadata={_KEY: Whole(low, high)})


def real(low: float, high: float, default: Any = MISSING) -> Any:
    """A field for a finite number from ``low`` to ``high``."""
    return dataclasses.field(default=default, metadata={_KEY: Real(low, high)})


def truth(default: Any = MISSING) -> Any:
    """A field for true or false."""
    return dataclasses.field(default=default, metadata={_KEY: Truth()})


def take(cls: Any, raw: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The fields of a dataclass that ``raw`` gives; keys that are no field of it are left.

    Raises:
        InputError: naming every field that is missing, or has a wrong type or lies out of range; it begins with
            ``where``.
    """
    fields = dataclasses.fields(cls)
    if missing := [field.name for field in fields if field.default is MISSING and field.name not in raw]:
        raise InputError(f"{where}: missing {', '.join(missing)}")
    given = {field.name: raw[field.name] for field in fields if field.name in raw}
    declared = {field.name: field.metadata[_KEY] for field in fields if _KEY in field.metadata}
    faults = [
        f"{name} must be {declared[name]}, not {_shown(value)}"
        for name, value in given.items()
        if name in declared and not declared[name].holds(value)
    ]
    if faults:
        raise InputError(f"{where}: {'; '.join(faults)}")
    return given


def _shown(value: Any) -> str:
    """As JSON writes it, where that differs from Python."""
    return json.dumps(value) if value is None or isinstance(value, bool) else quote(value)
