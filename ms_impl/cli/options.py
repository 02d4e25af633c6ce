"""``--options KEY=VALUE`` of a command line; by itself, for commands that start without the schema of settings."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from ms_impl.errors import InputError, listed, quote


def options_of(options: Sequence[str]) -> Iterator[tuple[str, Any]]:
    """Dotted keys and values of ``--options KEY=VALUE``. Raises InputError for what has another form."""
    if options:  # or starting a command would pay for reading YAML
        from ms_impl.cli.yaml_reader import parse
    for option in options:
        key, equals, value = option.partition("=")
        if not equals:
            raise InputError(f"--options: expected KEY=VALUE, found {quote(option)}")
        yield key, parse(value, f"--options {listed([key])}")
