"""The values of an adapter's settings: each checked for its type and range, or refused by the name of its key."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

from ms_impl.adapters.matching import check_expression
from ms_impl.errors import InputError, quote

_MAX_RANK, _MAX_ALPHA, _MAX_LAYER = 1 << 16, 10**6, 10**6
_MAX_EXPRESSIONS = 4_000  # of one setting; each is matched with every module


def text(value: Any, where: str) -> str:
    """A text."""
    if not isinstance(value, str):
        raise InputError(f"{where} is {quote(value)}; expected a text")
    return value


def flag(value: Any, where: str) -> bool:
    """True or False."""
    if not isinstance(value, bool):
        raise InputError(f"{where} is {quote(value)}; expected true or false")
    return value


def rank(value: Any, where: str) -> int:
    """The rank of an update."""
    if type(value) is not int or not 1 <= value <= _MAX_RANK:
        raise InputError(f"{where} is {quote(value)}; expected a whole number above 0, at most {_MAX_RANK:,}")
    return value


def alpha(value: Any, where: str) -> float:
    """What an update is scaled by."""
    if not _is_number(value) or not 0 < value <= _MAX_ALPHA:
        raise InputError(f"{where} is {quote(value)}; expected a number above 0, at most {_MAX_ALPHA:,}")
    return value


def dropout(value: Any, where: str) -> float:
    """A share."""
    if not _is_number(value) or not 0 <= value < 1:
        raise InputError(f"{where} is {quote(value)}; expected a number from 0 to below 1")
    return value


def _names(value: Any, where: str) -> tuple[str, ...]:
    if not isinstance(value, list | tuple) or not all(isinstance(name, str) and name for name in value):
        raise InputError(f"{where} is {quote(value)}; expected a list of names")
    return tuple(value)


def saved_names(value: Any, where: str) -> tuple[str, ...]:
    """Names that PEFT puts into expressions of its own."""
    names = _names(value, where)
    _check_expressions(names, where)
    return names


def names_or_expression(value: Any, where: str) -> tuple[str, ...] | str:
    """A list of names, or a regular expression."""
    if not isinstance(value, str):
        return _names(value, where)
    check_expression(value, where)
    return value


def layer_numbers(value: Any, where: str) -> tuple[int, ...]:
    """The number of a layer, or several."""
    numbers = value if isinstance(value, list | tuple) else [value]
    if not all(type(number) is int and 0 <= number <= _MAX_LAYER for number in numbers):
        raise InputError(f"{where} is {quote(value)}; expected numbers of layers, from 0")
    return tuple(numbers)


def layer_names(value: Any, where: str) -> tuple[str, ...]:
    """A name, or several, that stand before the number of a layer."""
    names = _names([value] if isinstance(value, str) and value else value or [], where)
    _check_expressions(names, where)
    return names


def pattern_of(read: Callable[[Any, str], Any]) -> Callable[[Any, str], dict[str, Any]]:
    """A table by expressions, whose entries are read by ``read``."""

    def reader(value: Any, where: str) -> dict[str, Any]:
        if not isinstance(value, Mapping) or not all(isinstance(key, str) and key for key in value):
            raise InputError(f"{where} is {quote(value)}; expected a table of module names")
        _check_expressions(value, where)
        return {key: read(entry, f"{where}.{key_name(key)}") for key, entry in value.items()}

    return reader


def key_name(key: str) -> str:
    """A key as it is, unless it is long or odd."""
    return key if len(key) <= 80 and key.isprintable() else quote(key)


def _check_expressions(texts: Collection[str], where: str) -> None:
    if len(texts) > _MAX_EXPRESSIONS:
        raise InputError(f"{where} has {len(texts):,} entries; at most {_MAX_EXPRESSIONS:,} are read")
    for one in texts:
        check_expression(one, where)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
