"""The YAML's ``annotation_file``: a file of conversations, or several with weights, whole or in part (``FILE#N``)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ms_impl.data.files import Mixture, part_of
from ms_impl.errors import InputError
from ms_impl.resources import locate


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


def mixture_of(loader: Mapping[str, Any], seed: int) -> Mixture:
    """The conversations of a ``data_loader`` section; without ``shuffle`` the first N are taken of ``FILE#N``."""
    chosen_by = seed if loader.get("shuffle", True) else None
    return Mixture(annotation_files(loader["annotation_file"]), loader.get("num_samples"), chosen_by)


def locate_records(name: str) -> str:
    """A file of records, or ``FILE#N``, relative to where the command runs or among the project's own files."""
    path, count = part_of(name)
    return str(locate(path)) + ("" if count is None else f"#{count}")
