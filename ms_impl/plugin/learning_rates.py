"""Learning rates of their own for module groups, by MindFormers' ``grouped_lr_schedule``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatch
from typing import Any

from ms_impl.cli.kinds import suggest
from ms_impl.errors import InputError
from ms_impl.families import Family


def name_parameters(schedules: Mapping[str, Any], family: Family, trained: Sequence[str]) -> None:
    """Replace the module groups among the ``params`` of ``grouped_lr_schedule`` by their names among those ``trained``.

    ``params`` may then hold ``aligner``, ``language_model`` … besides what MindFormers 1.9.0 reads
    (trainer/optimizer_grouped_parameters.py:84): patterns, and parts of names.

    Raises:
        InputError: an element of ``params`` is neither a group of the family nor a pattern that a trained parameter
            matches, or nothing of the group is trained.
    """
    for number, schedule in enumerate(schedules.get("grouped") or ()):
        where = f"grouped_lr_schedule.grouped[{number}].params"
        if not isinstance(schedule.get("params"), list):
            raise InputError(f"{where}: expected a list of module groups or patterns, found {schedule.get('params')!r}")
        schedule["params"] = [name for word in schedule["params"] for name in _names(word, trained, family, where)]


def _names(word: str, trained: Sequence[str], family: Family, where: str) -> list[str]:
    if word in family.groups:
        if names := [name for name in trained if family.group_of(name) == word]:
            return names
        raise InputError(f"{where}: nothing of '{word}' is trained")
    if not any(word in name or fnmatch(name, word) for name in trained):
        raise InputError(f"{where}: no trained parameter matches '{word}'{suggest(word, family.groups)}")
    return [word]
