"""What the options of a template may be in a YAML, from the dataclass that declares them."""

from __future__ import annotations

import dataclasses
import types
import typing
from typing import Any, Literal

from ms_impl.cli.kinds import Flag, Kind, ListOf, Named, Number, Text, Whole

_PLAIN: dict[Any, type[Kind]] = {str: Text, bool: Flag, int: Whole, float: Number}


def option_kinds(options: type) -> dict[str, Kind]:
    """The kind of each field's values. A number's ``metadata`` may say ``low`` and ``high``.

    A field of another type than texts, numbers, flags, choices, and tuples and tables of them may be anything.
    """
    annotations = typing.get_type_hints(options)
    return {field.name: _kind(annotations[field.name], field.metadata) for field in dataclasses.fields(options)}


def _kind(annotation: Any, metadata: typing.Mapping[str, Any]) -> Kind:
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (typing.Union, types.UnionType):
        given = [each for each in arguments if each is not type(None)]
        return _kind(given[0], metadata) if len(given) == 1 else Kind()
    if origin is Literal:
        return Text(tuple(arguments)) if all(isinstance(each, str) for each in arguments) else Kind()
    if origin in (tuple, list):
        length = len(arguments) if Ellipsis not in arguments and origin is tuple else None
        return ListOf(_kind(arguments[0], metadata), length)
    if isinstance(origin, type) and issubclass(origin, typing.Mapping):
        return Named(Kind())
    if annotation in (int, float):
        limits = {key: metadata[key] for key in ("low", "high") if key in metadata}
        return _PLAIN[annotation](**limits)
    return _PLAIN.get(annotation, Kind)()
