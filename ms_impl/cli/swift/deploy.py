"""``deploy``: scripts/serve.py with ms-swift's argument names."""

from __future__ import annotations

import runpy
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ms_impl.cli.swift import runs
from ms_impl.cli.swift.arguments import Given, read
from ms_impl.errors import InputError, quote
from ms_impl.resources import resource

_RESTORED = ("model", "model_type", "template", "custom_register_path", "torch_dtype")  # of the adapters' args.json
_SAME = {
    "host": "host", "port": "port", "api_key": "api_key", "max_batch_size": "max_batch", "max_length": "max_length",
    "torch_dtype": "dtype", "model_type": "model_type", "template": "template",
}  # fmt: skip


def deploy(words: Sequence[str]) -> int:
    """Serve a model, and with it its adapters, until a signal comes."""
    given = read("deploy", words)
    for note in given.notes:
        print(note)
    sys.argv = [str(resource("scripts/serve.py")), *words_of(given)]
    return runpy.run_path(sys.argv[0])["main"]()


def words_of(given: Given) -> list[str]:
    """The arguments of scripts/serve.py.

    ``--adapters NAME=DIR`` is a model of that name; one without a name stands in the model's place. What is not given
    is as the adapters' args.json says. Raises InputError for adapters that were trained on different models.
    """
    found = [(name, runs.checkpoint_directory(path)) for name, path in map(_named, given.adapters)]
    values = _restored(given, [directory for _, directory in found])
    if not values["model"]:
        raise InputError("--model: give the directory of a checkpoint")
    name = values["served_model_name"] or Path(values["model"]).resolve().name
    words = ["--model", str(values["model"]), "--name", name]
    for adapter, directory in found:
        words += ["--adapter", f"{adapter or name}={directory}"]
    if values["custom_register_path"]:
        words += ["--custom_register_path", *values["custom_register_path"]]
    return words + [
        word for key, option in _SAME.items() if values[key] is not None for word in (f"--{option}", str(values[key]))
    ]


def _named(told: str) -> tuple[str, str]:
    """The name of an adapter, if it has one, and its directory."""
    name, equals, path = told.partition("=")
    return (name, path) if equals and "/" not in name else ("", told)


def _restored(given: Given, adapters: Sequence[Path]) -> Mapping[str, Any]:
    values = dict(given.values)
    saved = [(directory, runs.arguments_of(directory)) for directory in adapters]
    for name in _RESTORED:
        told = [(directory, each[name]) for directory, each in saved if each.get(name)]
        if name in given.named or not told:
            continue
        if others := [directory for directory, value in told if value != told[0][1]]:
            raise InputError(
                f"--adapters: {told[0][0]} was trained with --{name} {quote(told[0][1])}, {others[0]} was not; "
                f"give --{name}, or serve one at a time"
            )
        values[name] = told[0][1]
    for directory, each in saved:
        if each.get("system"):
            said = quote(each["system"])
            print(f"{directory}: trained with --system {said}; requests bring it as their first message")
    return values
