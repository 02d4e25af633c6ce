"""The learning rates of a run: what MindFormers' schedules are told late, and the table of what is trained at which.

Nothing else changes MindFormers' configuration after ``ms_impl.cli.mindformers_config`` has written it. The lengths of
schedules follow from the rows, so the data must be read first (``set_lengths``); the parameters behind the words of
``grouped_lr_schedule`` are those of the model, so it must be built first (``named_parameters``). No framework imported.
"""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping, Sequence
from fnmatch import fnmatch
from typing import Any

from ms_impl.cli.kinds import suggest
from ms_impl.errors import InputError
from ms_impl.families import Family


def set_lengths(config: MutableMapping[str, Any], total_steps: int) -> list[int]:
    """Give each schedule of MindFormers' configuration that names no ``total_steps`` those of the whole run.

    Also where only a part of it is left to do. Returns the length of each.
    """
    grouped = config.get("grouped_lr_schedule")
    schedules = [grouped["default"], *grouped["grouped"]] if grouped else [config.get("lr_schedule")]
    schedules = [schedule for schedule in schedules if schedule]
    for schedule in schedules:
        if schedule.get("total_steps") in (None, -1):
            schedule["total_steps"] = total_steps
    return [schedule["total_steps"] for schedule in schedules]


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
    words = family.named_parts(trained, config)
    grouped = []
    for number, schedule in enumerate(schedules.get("grouped") or ()):
        where = f"grouped_lr_schedule.grouped[{number}].params"
        if not isinstance(schedule.get("params"), list):
            raise InputError(f"{where}: expected a list of module groups or patterns, found {schedule.get('params')!r}")
        names = [name for word in schedule["params"] for name in _names(word, words, trained, where)]
        grouped.append({**schedule, "params": names})
    return {**schedules, "grouped": grouped}


def trained_table(
    family: Family, sizes: Mapping[str, int], trained: Sequence[str], rates: Mapping[str, float]
) -> list[str]:
    """A line for each module group: how many of its numbers are trained, and at which highest learning rate.

    Args:
        sizes: how many numbers each parameter has.
        rates: the learning rate of each trained parameter; one that has none is not named.
    """
    lines, among = [], set(trained)
    for group in family.groups:
        names = [name for name in sizes if family.group_of(name) == group]
        if not names:
            continue
        own = [name for name in names if name in among]
        told = [f"{rate:.3g}" for rate in dict.fromkeys(rates[name] for name in own if name in rates)]
        count = f"{sum(sizes[name] for name in own):,} of {sum(sizes[name] for name in names):,}"
        lines.append(f"{group:<16}{count:>32}  {'learning rate ' + ', '.join(told) if own else 'frozen'}")
    return lines


def rates_of(
    settings: Mapping[str, Any], grouped: Mapping[str, Any] | None, trained: Sequence[str]
) -> dict[str, float]:
    """The highest learning rate of each trained parameter, where the settings tell it.

    ``settings``: those with ``lr_schedule`` and ``optimizer``. ``grouped``: what ``named_parameters`` made.
    """
    default = (grouped or {}).get("default") or settings.get("lr_schedule") or settings.get("optimizer") or {}
    schedules = [(schedule["params"], _highest(schedule)) for schedule in (grouped or {}).get("grouped") or ()]
    found = {}
    for name in trained:  # the first that fits, as in MindFormers
        own = (rate for words, rate in schedules if any(word in name or fnmatch(name, word) for word in words))
        rate = next(own, _highest(default))
        if rate is not None:
            found[name] = rate
    return found


def _highest(schedule: Mapping[str, Any]) -> float | None:
    rate = schedule.get("learning_rate", schedule.get("base_lr"))
    return rate if isinstance(rate, int | float) else _highest(rate) if isinstance(rate, Mapping) else None


def _names(word: str, words: Mapping[str, list[str]], trained: Sequence[str], where: str) -> list[str]:
    if word in words:
        if names := words[word]:
            return names
        raise InputError(f"{where}: nothing of '{word}' is trained")
    if not any(word in name or fnmatch(name, word) for name in trained):
        raise InputError(f"{where}: no trained parameter matches '{word}'{suggest(word, words)}")
    return [word]
