"""The YAML's ``annotation_file``: one file of conversations, or several with weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ms_impl.errors import InputError


def annotation_files(value: Any) -> list[tuple[str, float]]:
    """``annotation_file``: a path, or a list of paths and of tables with ``path`` and ``weight``; → (path, weight)."""
    entries = value if isinstance(value, list) else [value]
    tables = [entry if isinstance(entry, Mapping) else {"path": entry} for entry in entries]
    for table in tables:
        known = set(table) <= {"path", "weight"} and isinstance(table.get("path"), str)
        if not known or not isinstance(table.get("weight", 1), int | float):
            raise InputError(
                f"train_dataset.data_loader.annotation_file: expected a path, or a list of {{path: …, weight: …}}; "
                f"found {dict(table)}"
            )
    return [(table["path"], table.get("weight", 1)) for table in tables]
