"""The options of a template that a checkpoint was trained with: a file beside its weights, and what differs from it.

What a model sees of a medium, and at which time, depends on limits and rates that stand nowhere in its weights. A model
that answers with others than it was trained with is not wrong, but it is worth a word.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ms_impl.data.template import Template
from ms_impl.errors import InputError, quote
from ms_impl.io.json_files import read_json

NAME = "template_options.json"  # goes along with weights: see ms_impl.io.checkpoint_assets


def kept(template: Template) -> dict[str, Any]:
    """The options that a checkpoint keeps, by name."""
    return {name: getattr(template.options, name) for name in template.kept_options}


def as_file(template: Template) -> dict[str, bytes]:
    """The file by its name; nothing for a template that keeps no options."""
    options = kept(template)
    return {NAME: (json.dumps(options, indent=2) + "\n").encode()} if options else {}


def read(directories: Iterable[str | os.PathLike | None], names: Iterable[str]) -> dict[str, Any]:
    """The saved options of the first directory that has the file: those of ``names``, the others are not known here.

    Raises InputError for a file that holds no options.
    """
    known = set(names)
    for directory in directories:
        path = Path(directory or "") / NAME
        if known and directory and path.is_file():
            saved = read_json(path)
            if not all(isinstance(value, str | int | float | bool) for value in saved.values()):
                raise InputError(f"{path}: options must be numbers, words, true or false; remove the file")
            return {name: value for name, value in saved.items() if name in known}
    return {}


def differences(template: Template, saved: Mapping[str, Any]) -> list[str]:
    """A line for each option that is another than the model was trained with."""
    now = kept(template)
    return [
        f"{name}: {quote(now[name])}, but the model was trained with {quote(value)}"
        for name, value in saved.items()
        if name in now and now[name] != value
    ]


def told(template: Template) -> str:
    """All options that a checkpoint keeps, on one line."""
    return ", ".join(f"{name} {json.dumps(value)}" for name, value in kept(template).items())


def changed(template: Template) -> str:
    """Those that are not the defaults, on one line."""
    fields = {field.name: field.default for field in dataclasses.fields(template.Options)}
    return ", ".join(f"{n} {json.dumps(value)}" for n, value in kept(template).items() if value != fields.get(n))
