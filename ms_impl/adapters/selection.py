"""Which modules PEFT's settings select, by name alone: its rules, rewritten."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

from ms_impl.adapters.config import ALL_LINEAR, LoraConfig
from ms_impl.adapters.matching import Expression, match_all

_SAVED = r"(^|.*\.){}($|\..*)"  # inside a module that is saved whole
_PATTERN = r"(.*\.)?({})$"  # a key of rank_pattern or alpha_pattern
_LAYER, _ANY_LAYER = r"(?:^|.*?\.){}\.(?P<idx>\d+)\.", r".*?\.[^.]*\.(?P<idx>\d+)\."


class Selection:
    """The settings, matched with the paths of all modules of a model.

    Args:
        prefix: what stands before these paths in the model that the settings speak of.

    Raises:
        InputError: an expression takes too long to be matched.
    """

    def __init__(self, config: LoraConfig, modules: Sequence[str], prefix: str = ""):
        self._config = config
        self._modules = modules
        self._prefix = prefix

    def under(self, names: Iterable[str]) -> dict[str, set[str]]:
        """The modules that each of ``names`` stands for: one of that name, or whose path ends in it after a dot."""
        found: dict[str, set[str]] = {name: set() for name in names}
        for module in self._modules:
            for end in ends(self._prefix + module):
                if end in found:
                    found[end].add(module)
        return found

    @property
    def expression(self) -> str | None:
        """``target_modules``, where that is a regular expression."""
        targets = self._config.target_modules
        return targets if isinstance(targets, str) and targets.lower() != ALL_LINEAR else None

    @cached_property
    def targeted(self) -> set[str]:
        """The modules that ``expression`` matches."""
        return set(self._matches["target", 0])

    @cached_property
    def excluded(self) -> set[str]:
        """The modules that ``exclude_modules`` names."""
        if isinstance(self._config.exclude_modules, str):
            return set(self._matches["exclude", 0])
        return set().union(*self.under(self._config.exclude_modules).values())

    @cached_property
    def saved(self) -> set[str]:
        """The modules that are saved whole, and those in them, which are not adapted."""
        return {module for key, found in self._matches.items() if key[0] == "saved" for module in found}

    def in_chosen_layer(self, module: str, target: str) -> bool:
        """Whether a module that ``target`` names lies in one of ``layers_to_transform``; a whole path always does."""
        if not self._config.layers_to_transform or self._prefix + module == target:
            return True
        numbers = (found[module] for key, found in self._matches.items() if key[0] == "layer" and module in found)
        number = next(numbers, None)
        return number is not None and int(number) in self._config.layers_to_transform

    def rank(self, module: str) -> int:
        """r of an adapted module."""
        return self._pattern("rank", self._config.rank_pattern, module, self._config.r)

    def alpha(self, module: str) -> float:
        """lora_alpha of an adapted module."""
        return self._pattern("alpha", self._config.alpha_pattern, module, self._config.lora_alpha)

    def unused_pattern(self, adapted: Iterable[str]) -> tuple[str, str] | None:
        """A setting and its first key that matches none of the adapted modules."""
        modules = set(adapted)
        for kind, pattern in (("rank", self._config.rank_pattern), ("alpha", self._config.alpha_pattern)):
            for number, key in enumerate(pattern):
                if modules.isdisjoint(self._matches[kind, number]):
                    return f"{kind}_pattern", key
        return None

    def _pattern(self, kind: str, pattern: Mapping[str, Any], module: str, default: Any) -> Any:
        found = (value for n, value in enumerate(pattern.values()) if module in self._matches[kind, n])
        return next(found, default)

    @cached_property
    def _matches(self) -> dict[tuple[str, int], dict[str, str | None]]:
        """What each expression of the settings matches: by what it is for, and its number there."""
        expressions = dict(self._expressions())
        paths = {self._prefix + module: module for module in self._modules}
        answers = match_all(list(expressions.values()), list(paths))
        found = [{paths[path]: number for path, number in answer.items()} for answer in answers]
        return dict(zip(expressions, found, strict=True))

    def _expressions(self) -> Iterator[tuple[tuple[str, int], Expression]]:
        config = self._config
        if self.expression:
            yield ("target", 0), Expression(self.expression, whole=True)
        if isinstance(config.exclude_modules, str):
            yield ("exclude", 0), Expression(config.exclude_modules, whole=True)
        layers = [Expression(text, _LAYER) for text in config.layers_pattern] or [Expression("", _ANY_LAYER)]
        lists = {
            "saved": [Expression(text, _SAVED) for text in config.modules_to_save],
            "layer": layers if config.layers_to_transform else [],
            "rank": [Expression(text, _PATTERN) for text in config.rank_pattern],
            "alpha": [Expression(text, _PATTERN) for text in config.alpha_pattern],
        }
        for kind, expressions in lists.items():
            yield from (((kind, number), expression) for number, expression in enumerate(expressions))


def ends(module: str) -> list[str]:
    """A path, and what follows each of its dots."""
    parts = module.split(".")
    return [".".join(parts[count:]) for count in range(len(parts))]
