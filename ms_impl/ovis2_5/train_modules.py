"""The words that say which parts of the model are trained: ``all``, ``llm|vte``, ``vte:1e-3|visual_tokenizer.head``."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

from ms_impl.errors import InputError, listed, quote
from ms_impl.ovis2_5.config import Ovis2_5Config

_TOWER = "visual_tokenizer.vit.vision_model"
UNUSED = f"{_TOWER}.post_layernorm."  # in the checkpoint, never in the graph, never trained


@dataclass(frozen=True)
class TrainModule:
    """One word: the patterns of the parameter names that it means, and a learning rate of its own."""

    word: str
    patterns: tuple[str, ...]
    learning_rate: float | None = None

    def owns(self, parameter: str) -> bool:
        """Whether a parameter of that name is trained by it."""
        matches = any(fnmatchcase(parameter, pattern) for pattern in self.patterns)
        return matches and not parameter.startswith(UNUSED)


def selectors(config: Ovis2_5Config) -> Mapping[str, tuple[str, ...]]:
    """Patterns on parameter names by word."""
    return {
        "all": ("*",),
        "llm": ("llm.*",),
        "visual_tokenizer": ("visual_tokenizer.*",),
        "visual_tokenizer.head": ("visual_tokenizer.head.*",),
        "visual_tokenizer.vit": ("visual_tokenizer.vit.*",),
        "visual_tokenizer.vit.last_block": (f"{_TOWER}.encoder.layers.{config.vit_config.num_hidden_layers - 1}.*",),
        "vte": ("vte.*",),
    }


def parse_train_modules(text: str, config: Ovis2_5Config, key: str = "train_modules") -> list[TrainModule]:
    """Words joined by ``|``, each with an optional ``:learning rate``; spaces do not count.

    Raises InputError, which begins with ``key``, for an unknown word, a learning rate that is no positive number, and
    for two words that mean the same parameters.
    """
    known = selectors(config)
    found: list[TrainModule] = []
    for part in text.replace(" ", "").split("|"):
        word, *rate = part.split(":")
        if word not in known:
            near = difflib.get_close_matches(word, known, 1, 0)
            raise InputError(f"{key}: unknown word {quote(word)}; did you mean {near[0]}? Known: {listed(known)}")
        module = TrainModule(word, known[word], _learning_rate(rate, part, key))
        for other in found:
            if _overlap(word, other.word):
                raise InputError(f"{key}: {other.word} and {word} both mean the parameters of {word}; keep one of them")
        found.append(module)
    return found


def trained(modules: Iterable[TrainModule], parameters: Iterable[str]) -> dict[str, TrainModule]:
    """The module that trains each parameter, by name; frozen ones are left out."""
    modules = list(modules)
    owners = {name: next((module for module in modules if module.owns(name)), None) for name in parameters}
    return {name: module for name, module in owners.items() if module is not None}


def _learning_rate(given: list[str], part: str, key: str) -> float | None:
    if not given:
        return None
    try:
        rate = float(given[0]) if len(given) == 1 else math.nan
    except ValueError:
        rate = math.nan
    if not 0 < rate < math.inf:
        raise InputError(f"{key}: {quote(part)} has no learning rate after its colon; write a positive number once")
    return rate


def _overlap(first: str, second: str) -> bool:
    """Whether two words have parameters in common: one is ``all``, or they are one below the other."""
    return "all" in (first, second) or f"{first}.".startswith(f"{second}.") or f"{second}.".startswith(f"{first}.")
