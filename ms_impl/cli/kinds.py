"""What a setting may be: kinds of values, of which the sections of ``keys`` are declared.

``check`` of a kind adds a line to the faults for each value that is not of its kind; a value of None is one that is not
given. ``inner`` finds the kind of a key below.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from ms_impl.errors import listed, quote

_LARGEST = 2**63 - 1
_LISTED = 15  # names that a message lists


@dataclass
class Findings:
    """What a check found: faults, and keys that are given and have no effect."""

    faults: list[str] = field(default_factory=list)
    idle: list[str] = field(default_factory=list)

    def wrong(self, where: str, what: str) -> None:
        self.faults.append(f"{where}: {what}")

    def expected(self, where: str, what: str, value: Any) -> None:
        self.wrong(where, f"expected {what}, found {quote(value)}")


class Kind:
    """Any value at all."""

    def check(self, value: Any, where: str, findings: Findings) -> None:
        pass

    def inner(self, key: str) -> Kind | None:
        """The kind of ``key`` in a section of this kind; None if there is none."""
        return None

    def keys(self) -> Iterator[tuple[str, Kind]]:
        """The keys of a section of this kind."""
        return iter(())


@dataclass(frozen=True)
class Flag(Kind):
    """True or False."""

    def check(self, value: Any, where: str, findings: Findings) -> None:
        if not isinstance(value, bool):
            findings.expected(where, "True or False", value)


@dataclass(frozen=True)
class Text(Kind):
    """A text; one of ``choices``, if there are any."""

    choices: tuple[str, ...] = ()
    empty: bool = True
    word: str = "value"  # what the choices are

    def check(self, value: Any, where: str, findings: Findings) -> None:
        if not isinstance(value, str) or not (value or self.empty):
            findings.expected(where, "a text" if self.empty else "a text that is not empty", value)
        elif self.choices and value not in self.choices:
            findings.wrong(where, f"unknown {self.word} {quote(value)}{suggest(value, self.choices)}")


@dataclass(frozen=True)
class Whole(Kind):
    """A whole number from ``low`` to ``high``, or one of ``also``."""

    low: int = 0
    high: int = _LARGEST
    also: tuple[int, ...] = ()

    def check(self, value: Any, where: str, findings: Findings) -> None:
        if type(value) is int and (self.low <= value <= self.high or value in self.also):
            return
        words = f" from {self.low:,} to {self.high:,}" if self.high < _LARGEST else f", at least {self.low}"
        others = "".join(f" or {number}" for number in self.also)
        findings.expected(where, f"a whole number{words}{others}", value)


@dataclass(frozen=True)
class Number(Kind):
    """A finite number: ``low`` ≤ number ≤ ``high``, ``above`` < number < ``below``."""

    low: float | None = None
    high: float | None = None
    above: float | None = None
    below: float | None = None

    def check(self, value: Any, where: str, findings: Findings) -> None:
        if type(value) in (int, float) and self._holds(value):
            return
        limits = {"at least": self.low, "at most": self.high, "above": self.above, "below": self.below}
        words = " and ".join(f"{word} {limit:g}" for word, limit in limits.items() if limit is not None)
        findings.expected(where, f"a number {words}".rstrip(), value)

    def _holds(self, value: float) -> bool:
        return (
            abs(value) <= _LARGEST
            and math.isfinite(value)
            and (self.low is None or value >= self.low)
            and (self.high is None or value <= self.high)
            and (self.above is None or value > self.above)
            and (self.below is None or value < self.below)
        )


@dataclass(frozen=True)
class ListOf(Kind):
    """A list of values of one kind: ``length`` of them, if it is given."""

    element: Kind
    length: int | None = None

    def check(self, value: Any, where: str, findings: Findings) -> None:
        if not isinstance(value, list) or self.length not in (None, len(value)):
            findings.expected(where, "a list" if self.length is None else f"a list of {self.length}", value)
            return
        for index, element in enumerate(value):
            self.element.check(element, f"{where}[{index}]", findings)


@dataclass(frozen=True)
class Section(Kind):
    """A section with some of ``content``'s keys."""

    content: Mapping[str, Kind]

    def check(self, value: Any, where: str, findings: Findings) -> None:
        if not isinstance(value, dict):
            findings.expected(where, "a section with keys", value)
            return
        for key, inner in value.items():
            place = f"{where}.{key}".lstrip(".")
            if key not in self.content:
                findings.wrong(where or "settings", f"unknown key {quote(key)}{suggest(key, self.content)}")
            elif inner is not None:
                self.content[key].check(inner, place, findings)

    def inner(self, key: str) -> Kind | None:
        return self.content.get(key)

    def keys(self) -> Iterator[tuple[str, Kind]]:
        return iter(self.content.items())


@dataclass(frozen=True)
class Typed(Kind):
    """A section whose ``type`` says which keys it may have; a class that ``auto_register`` brings has its own."""

    types: Mapping[str, Mapping[str, Kind]]

    def check(self, value: Any, where: str, findings: Findings) -> None:
        if not isinstance(value, dict):
            findings.expected(where, "a section with keys", value)
            return
        name = value.get("type")
        if name is None:
            findings.wrong(f"{where}.type", "is missing")
        elif not isinstance(name, str):
            findings.expected(f"{where}.type", "a text", name)
        elif name in self.types:
            common = {"type": Text(), "auto_register": Text()}
            Section({**common, **self.types[name]}).check(value, where, findings)
        elif value.get("auto_register") is None:
            findings.wrong(f"{where}.type", f"unknown type {quote(name)}{suggest(name, self.types)}")

    def inner(self, key: str) -> Kind | None:
        return dict(self.keys()).get(key)

    def keys(self) -> Iterator[tuple[str, Kind]]:
        yield from (("type", Text()), ("auto_register", Text()))
        for content in self.types.values():
            yield from content.items()


@dataclass(frozen=True)
class Named(Kind):
    """A section whose keys are names of the user's own; each value is of one kind."""

    element: Kind

    def check(self, value: Any, where: str, findings: Findings) -> None:
        if not isinstance(value, dict):
            findings.expected(where, "a section with keys", value)
            return
        for name, inner in value.items():
            self.element.check(inner, f"{where}.{name}", findings)

    def inner(self, key: str) -> Kind | None:
        return self.element


@dataclass(frozen=True)
class Either(Kind):
    """A value of one of the kinds: of the last one, unless it is of another. Sections come last."""

    kinds: tuple[Kind, ...]
    words: str  # what is expected

    def check(self, value: Any, where: str, findings: Findings) -> None:
        for kind in self.kinds[:-1]:
            attempt = Findings()
            kind.check(value, where, attempt)
            if not attempt.faults:
                return
        attempt = Findings()
        self.kinds[-1].check(value, where, attempt)
        if attempt.faults and not isinstance(value, dict | list):
            findings.expected(where, self.words, value)
        else:
            findings.faults += attempt.faults

    def inner(self, key: str) -> Kind | None:
        return self.kinds[-1].inner(key)

    def keys(self) -> Iterator[tuple[str, Kind]]:
        return self.kinds[-1].keys()


@dataclass(frozen=True)
class Idle(Kind):
    """A key that old YAMLs have and nothing here reads."""

    kind: Kind = Kind()

    def check(self, value: Any, where: str, findings: Findings) -> None:
        self.kind.check(value, where, findings)
        findings.idle.append(where)

    def inner(self, key: str) -> Kind | None:
        return self.kind


def find(kind: Kind, key: str) -> Kind | None:
    """The kind of a dotted key below ``kind``, or None."""
    found: Kind | None = kind
    for part in key.split("."):
        found = found.inner(part) if found else None
    return found


def dotted_keys(kind: Kind, where: str = "") -> Iterator[str]:
    """Every dotted key below ``kind``."""
    for key, inner in kind.keys():
        yield (place := f"{where}.{key}".lstrip("."))
        yield from dotted_keys(inner, place)


def suggest(word: Any, known: Collection[str]) -> str:
    """``; did you mean …?``, or the list of what is known."""
    near = difflib.get_close_matches(str(word)[:100], known, n=1)
    if near:
        return f"; did you mean '{near[0]}'?"
    return f"; known: {listed(known, _LISTED)}"
