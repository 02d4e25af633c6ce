"""Learning rates of their own for parts of a model, by MindFormers' ``grouped_lr_schedule``. No framework imported."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatch, fnmatchcase
from typing import Any

from ms_impl.cli.kinds import suggest
from ms_impl.errors import InputError
from ms_impl.families import Family


def named_parameters(
    schedules: Mapping[str, Any], family: Family, config: Any, trained: Sequence[str]
) -> dict[str, Any]:
    """``grouped_lr_schedule`` with the names of parameters among those ``trained`` in place of the words for them.

    ``params`` may hold module groups (``aligner``, ``language_model`` …) and the family's own words for parts of a
    model of this ``config``, besides what MindFormers 1.9.0 reads (trainer/optimizer_grouped_parameters.py:84):
    patterns, and parts of names.

    Raises:
        InputError: an element of ``params`` is neither such a word nor a pattern that a trained parameter matches, or
            nothing that it names is trained.
    """
    words = _words(family, config, trained)
    grouped = []
    for number, schedule in enumerate(schedules.get("grouped") or ()):
        where = f"grouped_lr_schedule.grouped[{number}].params"
        if not isinstance(schedule.get("params"), list):
            raise InputError(f"{where}: expected a list of module groups or patterns, found {schedule.get('params')!r}")
        names = [name for word in schedule["params"] for name in _names(word, words, trained, where)]
        grouped.append({**schedule, "params": names})
    return {**schedules, "grouped": grouped}


def _words(family: Family, config: Any, trained: Sequence[str]) -> dict[str, list[str]]:
    """What each word stands for among the trained parameters. A group comes before a selector of its name."""
    selected = {
        word: [name for name in trained if any(fnmatchcase(name, pattern) for pattern in patterns)]
        for word, patterns in family.selector_patterns(config).items()
    }
    groups = {group: [name for name in trained if family.group_of(name) == group] for group in family.groups}
    return selected | groups


def _names(word: str, words: Mapping[str, list[str]], trained: Sequence[str], where: str) -> list[str]:
    if word in words:
        if names := words[word]:
            return names
        raise InputError(f"{where}: nothing of '{word}' is trained")
    if not any(word in name or fnmatch(name, word) for name in trained):
        raise InputError(f"{where}: no trained parameter matches '{word}'{suggest(word, words)}")
    return [word]
