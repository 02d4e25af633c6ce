"""Which layers an adapter changes and which it trains whole, from names and shapes alone."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from ms_impl.adapters.config import LoraConfig
from ms_impl.errors import InputError
from ms_impl.families import Family
from ms_impl.io.tensors import Shape

FACTOR_A, FACTOR_B = ".lora_A.weight", ".lora_B.weight"  # after a module's path: PEFT's names


@dataclass(frozen=True)
class Plan:
    """What a ``LoraConfig`` means for one model.

    Attributes:
        config: the settings, module groups spelled out as the modules they stand for.
        adapted: shape [out, in] of the weight of each adapted linear layer, by module path.
        whole: shape of each parameter that is trained whole, by name.
    """

    config: LoraConfig
    adapted: Mapping[str, Shape]
    whole: Mapping[str, Shape]

    @property
    def factors(self) -> dict[str, Shape]:
        """Shape of A [r, in] and B [out, r] of every adapted layer, by parameter name."""
        shapes: dict[str, Shape] = {}
        for module, (rows, columns) in self.adapted.items():
            shapes[module + FACTOR_A] = (self.config.r, columns)
            shapes[module + FACTOR_B] = (rows, self.config.r)
        return shapes

    @property
    def shapes(self) -> dict[str, Shape]:
        """Shape of everything that is trained, and that the adapter's file holds, by parameter name."""
        return {**self.factors, **self.whole}

    @property
    def size(self) -> int:
        """How many numbers are trained."""
        return sum(map(math.prod, self.shapes.values()))


def make_plan(config: LoraConfig, family: Family, parameters: Mapping[str, Shape], linears: Iterable[str]) -> Plan:
    """Find what the settings name in a model.

    As in PEFT, a target is not looked for inside a module that is trained whole.

    Args:
        parameters: shape of every parameter of the base model, by Hugging Face's name.
        linears: paths of its linear layers.

    Raises:
        InputError: a name matches nothing; the names near to it are told.
    """
    modules = {prefix for name in parameters for prefix in _prefixes(name)}
    for name in config.modules_to_save:
        if not any(_matches(module, name) for module in modules):
            raise InputError(f"modules_to_save: the model has no module '{name}'{_near(name, modules)}")
    whole = {
        name: shape
        for name, shape in parameters.items()
        if any(_matches(module, saved) for module in _prefixes(name) for saved in config.modules_to_save)
    }
    candidates = [module for module in linears if f"{module}.weight" not in whole]
    found = {target: _find(target, candidates, family) for target in config.target_modules}
    wanted = {module for modules in found.values() for module in modules}
    adapted = {module: parameters[f"{module}.weight"] for module in candidates if module in wanted}
    return Plan(_spelled_out(config, found, family), adapted, whole)


def _find(target: str, linears: Sequence[str], family: Family) -> list[str]:
    """The linear layers that a module group or a module's name stands for."""
    if target in family.groups:
        found = [module for module in linears if family.group_of(f"{module}.weight") == target]
    else:
        found = [module for module in linears if _matches(module, target)]
    if not found:
        raise InputError(
            f"target_modules: '{target}' matches no linear layer that is not trained whole"
            f"{_near(target, [*linears, *family.groups])}"
        )
    return found


def _matches(module: str, name: str) -> bool:
    return module == name or module.endswith(f".{name}")


def _prefixes(parameter: str) -> list[str]:
    """The paths of the modules that a parameter lies in."""
    parts = parameter.split(".")
    return [".".join(parts[:count]) for count in range(1, len(parts))]


def _near(name: str, modules: Iterable[str]) -> str:
    """``; near to it: …``: what modules could be called, and resembles ``name``."""
    known = {module.split(".", skipped)[-1] for module in modules for skipped in range(module.count(".") + 1)}
    near = difflib.get_close_matches(name, sorted(known), n=3)
    return f"; near to it: {', '.join(near)}" if near else ""


def _spelled_out(config: LoraConfig, found: Mapping[str, Sequence[str]], family: Family) -> LoraConfig:
    """The settings in words that PEFT understands: it knows no module groups."""
    names = [[target] if target not in family.groups else found[target] for target in config.target_modules]
    return replace(config, target_modules=tuple(dict.fromkeys(name for group in names for name in group)))
