"""Reading a model's config.json: its keys are declared once, in dataclasses, and read with errors that name them.

A field made with ``whole``, ``real``, ``truth``, ``numbers`` or ``section`` says its type and its range. Keys that no
field has do not change what a model computes, unless ``FIXED`` of its class names them.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import MISSING, dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol, Self

from ms_impl.errors import InputError, quote
from ms_impl.io.json_files import read_json

_KEY = "declared"

# Bounds that no model comes near: a number beyond one is a mistake, and must not be expanded into a table or a model.
MAX_LAYERS = 1024
MAX_HEADS = 1024
MAX_WIDTH = 1 << 17
MAX_FFN_WIDTH = 1 << 22
MAX_VOCABULARY = 1 << 24
MAX_POSITIONS = 1 << 20


class _Kind(Protocol):
    """What a declared field may hold; ``str`` of it says so in errors."""

    def holds(self, value: Any) -> bool: ...


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


@dataclass(frozen=True)
class Numbers:
    """A list of at most ``longest`` whole numbers in a range, read as a tuple; null where ``optional``."""

    low: int
    high: int
    longest: int
    optional: bool

    def holds(self, value: Any) -> bool:
        if value is None:
            return self.optional
        number = Whole(self.low, self.high)
        return isinstance(value, list | tuple) and len(value) <= self.longest and all(map(number.holds, value))

    def __str__(self) -> str:
        end = ", or null" if self.optional else ""
        return f"a list of at most {self.longest} whole numbers from {self.low:,} to {self.high:,}{end}"


@dataclass(frozen=True)
class Section:
    """A table that another dataclass reads."""

    reader: type[ConfigSection]

    def holds(self, value: Any) -> bool:
        return isinstance(value, dict | self.reader)

    def __str__(self) -> str:
        return "a table"


def _declared(kind: _Kind, default: Any) -> Any:
    return dataclasses.field(default=default, metadata={_KEY: kind})


def whole(low: int, high: int, default: Any = MISSING) -> Any:
    """A field for a whole number from ``low`` to ``high``."""
    return _declared(Whole(low, high), default)


def real(low: float, high: float, default: Any = MISSING) -> Any:
    """A field for a finite number from ``low`` to ``high``."""
    return _declared(Real(low, high), default)


def truth(default: Any = MISSING) -> Any:
    """A field for true or false."""
    return _declared(Truth(), default)


def numbers(low: int, high: int, longest: int, default: Any = MISSING) -> Any:
    """A field for a list of whole numbers from ``low`` to ``high``; it may be null if the default is None."""
    return _declared(Numbers(low, high, longest, default is None), default)


def section(reader: type[ConfigSection]) -> Any:
    """A field for a table that the class ``reader`` reads."""
    return _declared(Section(reader), MISSING)


def take(cls: Any, raw: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The fields of a dataclass that ``raw`` gives, sections not read; keys that are no field of it are left.

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
    return {name: tuple(value) if isinstance(value, list) else value for name, value in given.items()}


class ConfigSection:
    """A declared dataclass that is a table of config.json, or the whole of it.

    ``MODEL`` is the model's name in errors. ``FIXED`` are keys that may be absent, and the values that this
    implementation computes with: a checkpoint that says otherwise is refused rather than miscomputed. A tuple lists
    several that come to the same.
    """

    MODEL: ClassVar[str]
    FIXED: ClassVar[Mapping[str, Any]] = {}

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any], source: str = "config") -> Self:
        """Read a parsed config.json, or a table of it. ``source`` is named first in errors.

        Raises:
            InputError: naming the keys that are missing, wrong, not implemented, or do not go together.
        """
        given = take(cls, raw, source)
        for field in dataclasses.fields(cls):  # type: ignore[arg-type]
            kind = field.metadata.get(_KEY)
            if isinstance(kind, Section) and isinstance(given[field.name], dict):
                given[field.name] = kind.reader.from_dict(given[field.name], f"{source}: {field.name}")
        cls._refuse_others(raw, source)
        config = cls(**given)
        if broken := [rule for rule, holds in config.rules().items() if not holds]:
            raise InputError(f"{source}: {'; '.join(broken)}")
        return config

    @classmethod
    def from_file(cls, path: str | Path) -> Self:
        """Read a config.json, or the one inside a directory."""
        path = Path(path)
        path = path / "config.json" if path.is_dir() else path
        return cls.from_dict(read_json(path), str(path))

    def same_model(self, other: Self) -> bool:
        """Whether both describe one model, whatever the files look like that they were read from."""
        return self == other

    def rules(self) -> Mapping[str, bool]:
        """What must hold among several keys, in words, and whether it does."""
        return {}

    def to_dict(self) -> dict[str, Any]:
        """As a table of config.json; ``from_dict`` of it is equal to this."""
        return {field.name: _plain(getattr(self, field.name)) for field in dataclasses.fields(self)} | {  # type: ignore[arg-type]
            key: _first(value) for key, value in self.FIXED.items()
        }

    @classmethod
    def _refuse_others(cls, raw: Mapping[str, Any], source: str) -> None:
        for key, fixed in cls.FIXED.items():
            values = fixed if isinstance(fixed, tuple) else (fixed,)
            found = raw.get(key, values[0])
            if not any(found == value and isinstance(found, bool) == isinstance(value, bool) for value in values):
                raise InputError(
                    f"{source}: {key}={quote(found)} is not implemented; {cls.MODEL} has {_first(fixed)!r}"
                )


def _first(value: Any) -> Any:
    return value[0] if isinstance(value, tuple) else value


def _plain(value: Any) -> Any:
    if isinstance(value, ConfigSection):
        return value.to_dict()
    return list(value) if isinstance(value, tuple) else value


def _shown(value: Any) -> str:
    """As JSON writes it, where that differs from Python."""
    return json.dumps(value) if value is None or isinstance(value, bool) else quote(value)
