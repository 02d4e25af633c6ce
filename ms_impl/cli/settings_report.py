"""The settings of a run, whole, as YAML that says what differs from the file given and from the default."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from ms_impl.errors import InputError
from ms_impl.io.atomic_write import atomic_write

KeyPath = tuple[str, ...]  # the keys that lead to a value; an element of a list has its type as key, or else its place
Line = tuple[str, KeyPath]  # a line of the report, and the setting it shows

_WIDEST = 80  # columns a setting may take before its mark no longer lines up


def report(settings: Mapping[str, Any], file_settings: Mapping[str, Any], default_settings: Mapping[str, Any]) -> str:
    """The settings as YAML that ``yaml.safe_load`` reads back, aliases and all.

    At the end of a line stands ``in the file: X`` or ``added`` where the setting is not the file's, and ``default: X``
    or ``not in the default`` where it is not the default's. What the file has and the settings have not is named last.
    """
    in_file, by_default = dict(_leaves(file_settings)), dict(_leaves(default_settings))
    marks = {path: _mark(text, in_file.get(path), by_default.get(path)) for path, text in _leaves(settings)}
    lines = list(_section(settings, (), "", _Anchors(settings)))
    marked = [len(text) for text, path in lines if marks.get(path)]
    width = min(max(marked, default=0), _WIDEST)
    told = [f"{text:<{width}}  # {marks[path]}" if marks.get(path) else text for text, path in lines]
    gone = [f"# left out: {'.'.join(path)} (in the file: {in_file[path]})" for path in in_file if path not in marks]
    return "\n".join([*told, *gone]) + "\n"


def save_report(text: str, path: Path) -> None:
    """Write a report where ``--config`` can take it. Raises InputError where it cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as aside:
            aside.write_text(text, encoding="utf-8")
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror})") from error


def _mark(text: str, in_file: str | None, by_default: str | None) -> str:
    """What is said of a setting: what it is elsewhere, where that differs; None where it is not at all."""
    if in_file is not None and in_file == by_default:
        return f"in the file and by default: {in_file}" if in_file != text else ""
    words = []
    if in_file != text:
        words.append("added" if in_file is None else f"in the file: {in_file}")
    if by_default != text:
        words.append("not in the default" if by_default is None else f"default: {by_default}")
    return "; ".join(words)


def _leaves(section: Mapping[str, Any] | list, path: KeyPath = ()) -> Iterator[tuple[KeyPath, str]]:
    """Every setting that is no section, as YAML writes it."""
    for key, value in _items(section):
        if _is_section(value):
            yield from _leaves(value, (*path, key))
        else:
            yield (*path, key), _text(value)


def _section(section: Mapping[str, Any], path: KeyPath, indent: str, anchors: _Anchors) -> Iterator[Line]:
    """The lines of a section, each with the path of its setting."""
    for key, value in section.items():
        here, start = (*path, str(key)), f"{indent}{_text(key)}:"
        if not _is_section(value):
            yield f"{start} {_text(value)}", here
        elif anchors.is_known(value):
            yield f"{start} *{anchors.name(value, here)}", here
        else:
            yield start + (f" &{anchors.name(value, here)}" if anchors.is_shared(value) else ""), here
            inner = _list if isinstance(value, list) else _section
            yield from inner(value, here, indent + "  ", anchors)


def _list(sections: list[Mapping[str, Any]], path: KeyPath, indent: str, anchors: _Anchors) -> Iterator[Line]:
    """The lines of a list of sections: a hyphen stands before the first line of each."""
    for key, section in _items(sections):
        lines = _section(section, (*path, key), indent + "  ", anchors)
        for number, (text, here) in enumerate(lines):
            yield (f"{indent}- {text[len(indent) + 2 :]}" if number == 0 else text), here


def _items(section: Mapping[str, Any] | list) -> Iterator[tuple[str, Any]]:
    """The keys of a section with their values; for the elements of a list, what a path has for keys."""
    if isinstance(section, Mapping):
        yield from ((str(key), value) for key, value in section.items())
        return
    types = Counter(element.get("type") for element in section)
    for place, element in enumerate(section):
        kind = element.get("type")
        yield (kind if kind and types[kind] == 1 else str(place)), element


def _is_section(value: Any) -> bool:
    """Whether a value has lines of its own: a table, or a list of tables."""
    if isinstance(value, list):
        return bool(value) and all(isinstance(element, Mapping) and element for element in value)
    return isinstance(value, Mapping) and bool(value)


class _Anchors:
    """The sections that stand at several places of the settings, as YAML's aliases make them, and their names."""

    def __init__(self, settings: Mapping[str, Any]):
        self._places: Counter[int] = Counter()
        self._names: dict[int, str] = {}
        self._count(settings)

    def is_shared(self, section: Any) -> bool:
        return self._places[id(section)] > 1

    def is_known(self, section: Any) -> bool:
        """Whether it has its name already."""
        return id(section) in self._names

    def name(self, section: Any, path: KeyPath) -> str:
        """Its name, from the path where it is asked for first."""
        return self._names.setdefault(id(section), re.sub(r"\W", "_", "_".join(path)))

    def _count(self, section: Mapping[str, Any] | list) -> None:
        for _, value in _items(section):
            if _is_section(value):
                self._places[id(value)] += 1
                if not self.is_shared(value):
                    self._count(value)


class _Dumper(yaml.SafeDumper):
    """One value on one line."""

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def represent_str(self, data: str) -> yaml.ScalarNode:
        return self.represent_scalar("tag:yaml.org,2002:str", data, style='"' if "\n" in data else None)


_Dumper.add_representer(str, _Dumper.represent_str)


def _text(value: Any) -> str:
    """A value as YAML writes it within a line."""
    in_list = yaml.dump([value], Dumper=_Dumper, default_flow_style=True, allow_unicode=True, width=float("inf"))
    return in_list.strip()[1:-1]
