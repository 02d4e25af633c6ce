"""YAML as settings need it: tables, lists, texts, numbers and yes or no, within bounds, each key once.

What differs from PyYAML's ``safe_load``: ``1e-4`` is a number; there are no dates, times of day, octal numbers, tags
and binary values; a key is a text, and one that stands twice in a table is an error; aliases may not multiply.
"""

from __future__ import annotations

import copy
import math
import re
from pathlib import Path
from typing import Any, NoReturn

import yaml
from yaml.events import AliasEvent, Event, MappingEndEvent, ScalarEvent, SequenceEndEvent, SequenceStartEvent

from ms_impl.errors import InputError, listed

LONGEST_FILE = 1 << 18  # bytes
MOST_VALUES = 10_000  # of a file, those that an alias stands for counted each time
DEEPEST = 32  # tables and lists within each other
_LONGEST_NUMBER = 40  # characters
_LONGEST_PLACE = 160  # characters of a dotted key in a message

_WORDS: dict[str, bool | None] = {"": None, "~": None, "null": None, "Null": None, "NULL": None}
_WORDS |= {word: True for name in ("true", "yes", "on") for word in (name, name.title(), name.upper())}
_WORDS |= {word: False for name in ("false", "no", "off") for word in (name, name.title(), name.upper())}
_WHOLE = re.compile(r"[-+]?[0-9][0-9_]*|[-+]?0x[0-9a-fA-F]+")
_NUMBER = re.compile(r"[-+]?([0-9][0-9_]*\.?[0-9_]*|\.[0-9]+)([eE][-+]?[0-9]+)?")
_NOT_FINITE = re.compile(r"([-+]?)\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_TEXT = "tag:yaml.org,2002:str"


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML file whose content is a table of settings. Raises InputError naming file, line and key."""
    try:
        if path.exists() and not path.is_file():
            raise InputError(f"{path}: is not a regular file")
        with path.open("rb") as file:
            content = file.read(LONGEST_FILE + 1)
    except (OSError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error})") from error
    if len(content) > LONGEST_FILE:
        raise InputError(f"{path}: is longer than {LONGEST_FILE:,} bytes; that is not a file of settings")
    try:
        settings = parse(content.decode("utf-8"), str(path))
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not YAML (byte {error.start} is not UTF-8)") from error
    if not isinstance(settings, dict):
        raise InputError(f"{path}: expected a table of settings")
    if "base_config" in settings:
        raise InputError(f"{path}: base_config is not read; write its keys into this file")
    return settings


def parse(text: str, source: str) -> Any:
    """The value that a YAML document stands for. ``source`` is named in errors, all of which are InputErrors."""
    try:
        return _Builder(text, source).document()
    except InputError:
        raise
    except yaml.MarkedYAMLError as error:
        where = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        raise InputError(f"{source}: {where}not YAML ({listed([error.problem or error.context or ''])})") from error
    except (yaml.YAMLError, ValueError, OverflowError) as error:  # the last two: "\UFFFFFFFF", for one
        raise InputError(f"{source}: not YAML ({listed([' '.join(str(error).split())])})") from error


class _Builder:
    """Makes values of PyYAML's events. Values that aliases name are the same object wherever they stand."""

    def __init__(self, text: str, source: str):
        self._events = yaml.parse(text, Loader=yaml.SafeLoader)
        self._source = source
        self._values = 0
        self._named: dict[str, tuple[Any, int]] = {}  # by anchor: the value, how many values it holds
        self._open: set[str] = set()  # anchors of what is being read

    def document(self) -> Any:
        next(self._events)  # the stream
        if not isinstance(start := next(self._events), yaml.DocumentStartEvent):
            return None
        value = self._value(next(self._events), "", 0)
        next(self._events)  # the document's end
        if isinstance(start := next(self._events), yaml.DocumentStartEvent):
            self._fail(start, "", "a second document begins; expected one")
        return value

    def _value(self, event: Event, where: str, depth: int) -> Any:
        if isinstance(event, AliasEvent):
            return self._alias(event, where)
        before = self._values
        self._count(event, where, 1)
        if event.anchor in self._named or event.anchor in self._open:
            self._fail(event, where, f"the anchor &{listed([event.anchor])} is given twice")
        if depth > DEEPEST:
            self._fail(event, where, f"more than {DEEPEST} tables and lists within each other")
        if event.anchor:
            self._open.add(event.anchor)
        if isinstance(event, ScalarEvent):
            value = self._scalar(event, where)
        elif event.tag not in (None, "!"):
            self._fail(event, where, f"the tag {listed([event.tag])} is not supported")
        else:
            build = self._list if isinstance(event, SequenceStartEvent) else self._table
            value = build(where, depth + 1)
        if event.anchor:
            self._open.remove(event.anchor)
            self._named[event.anchor] = value, self._values - before
        return value

    def _alias(self, event: AliasEvent, where: str) -> Any:
        if event.anchor in self._open:
            self._fail(event, where, f"*{listed([event.anchor])} contains itself")
        if event.anchor not in self._named:
            self._fail(event, where, f"*{listed([event.anchor])} has no anchor before it")
        value, size = self._named[event.anchor]
        self._count(event, where, size)
        return value

    def _list(self, where: str, depth: int) -> list[Any]:
        values: list[Any] = []
        while not isinstance(event := next(self._events), SequenceEndEvent):
            values.append(self._value(event, f"{where}[{len(values)}]", depth))
        return values

    def _table(self, where: str, depth: int) -> dict[str, Any]:
        table: dict[str, Any] = {}
        merged: dict[str, Any] = {}
        lines: dict[str, int] = {}
        while not isinstance(event := next(self._events), MappingEndEvent):
            key = self._key(event, where)
            inner = f"{where}.{key}".lstrip(".")
            if key in lines:
                self._fail(event, inner, f"is given twice, first in line {lines[key]}; keep one")
            lines[key] = event.start_mark.line + 1
            value = self._value(following := next(self._events), inner, depth)
            if key == "<<" and event.style is None:
                self._merge(following, where, value, merged)
            else:
                table[key] = value
        return table | {key: value for key, value in merged.items() if key not in table}

    def _merge(self, event: Event, where: str, value: Any, merged: dict[str, Any]) -> None:
        """Add copies of what ``<<`` names: a change of one section must not change the other."""
        tables = value if isinstance(value, list) else [value]
        if not all(isinstance(table, dict) for table in tables):
            self._fail(event, where, "<< expects a table or a list of tables")
        for table in tables:
            for key, inner in table.items():
                merged.setdefault(key, copy.deepcopy(inner))

    def _key(self, event: Event, where: str) -> str:
        if not isinstance(event, ScalarEvent) or event.tag not in (None, _TEXT) or event.anchor or not event.value:
            self._fail(event, where, "expected a text as key")
        self._check_text(event, where)
        if len(event.value) > 200:
            self._fail(event, where, f"a key of {len(event.value):,} characters")
        return event.value

    def _scalar(self, event: ScalarEvent, where: str) -> Any:
        self._check_text(event, where)
        if event.tag not in (None, "!", _TEXT):
            self._fail(event, where, f"the tag {listed([event.tag])} is not supported")
        if event.tag or event.style is not None:
            return event.value
        try:
            return plain(event.value)
        except InputError as error:
            self._fail(event, where, str(error))

    def _check_text(self, event: ScalarEvent, where: str) -> None:
        if "\0" in event.value or any("\ud800" <= character <= "\udfff" for character in event.value):
            self._fail(event, where, "a text holds a character that no file can hold")

    def _count(self, event: Event, where: str, values: int) -> None:
        self._values += values
        if self._values > MOST_VALUES:
            self._fail(event, where, f"more than {MOST_VALUES:,} values, those of aliases counted")

    def _fail(self, event: Event, where: str, what: str) -> NoReturn:
        place = f"{where[:_LONGEST_PLACE]}: " if where else ""
        raise InputError(f"{self._source}: line {event.start_mark.line + 1}: {place}{what}")


def plain(text: str) -> Any:
    """What a text without quotes stands for. Raises InputError for a number that is none."""
    if text in _WORDS:
        return _WORDS[text]
    if match := _NOT_FINITE.fullmatch(text):
        return math.nan if match[3] else float(f"{match[1]}inf")
    if not (_NUMBER.fullmatch(text) or _WHOLE.fullmatch(text)):
        return text
    if len(text) > _LONGEST_NUMBER:
        raise InputError(f"a number of {len(text):,} characters; put it in quotes if it is a text")
    if not _WHOLE.fullmatch(text):
        number = float(text.replace("_", ""))
        if math.isinf(number):
            raise InputError(f"{text} is too large a number")
        return number
    digits = text.lstrip("+-")
    if digits.startswith("0x"):
        return int(text, 16)
    if len(digits) > 1 and digits.startswith("0"):
        raise InputError(f"{text}: a number does not begin with 0; put it in quotes if it is a text")
    return int(text.replace("_", ""))
