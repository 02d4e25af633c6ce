"""Which layers an adapter changes and which it trains whole, from names and shapes alone."""

from __future__ import annotations

import difflib
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

from ms_impl.adapters.config import LoraConfig
from ms_impl.adapters.selection import Selection, ends
from ms_impl.errors import InputError, quote
from ms_impl.families import Family
from ms_impl.io.tensors import Shape

# What stands after a module's path: PEFT's names.
FACTOR_A, FACTOR_B = ".lora_A.weight", ".lora_B.weight"
EMBEDDING_A, EMBEDDING_B = ".lora_embedding_A", ".lora_embedding_B"

_NEAR_LENGTH = 80  # characters of a name that others are compared with


@dataclass(frozen=True)
class AdaptedLayer:
    """The low-rank update of one layer.

    Attributes:
        shape: of the weight, [out, in] of a linear layer, [vocabulary, width] of an embedding.
        r: its rank.
        scaling: what B·A is multiplied by.
        embedding: whether it is an embedding, to whose weight (B·A)ᵀ is added.
    """

    shape: Shape
    r: int
    scaling: float
    embedding: bool = False

    @property
    def factors(self) -> dict[str, Shape]:
        """Shapes of A [r, in] and B [out, r] by what stands after the module's path in their names."""
        rows, columns = self.shape
        if self.embedding:
            return {EMBEDDING_A: (self.r, rows), EMBEDDING_B: (columns, self.r)}
        return {FACTOR_A: (self.r, columns), FACTOR_B: (rows, self.r)}


@dataclass(frozen=True)
class AdapterPlan:
    """What a ``LoraConfig`` means for one model.

    Attributes:
        config: the settings, spelled out in words that PEFT understands: it knows no module groups.
        adapted: by module path.
        whole: shape of each parameter that is trained whole, by name.
    """

    config: LoraConfig
    adapted: Mapping[str, AdaptedLayer]
    whole: Mapping[str, Shape]

    @property
    def factors(self) -> dict[str, Shape]:
        """Shape of A and B of every adapted layer, by parameter name."""
        layers = self.adapted.items()
        return {module + end: shape for module, layer in layers for end, shape in layer.factors.items()}

    @property
    def shapes(self) -> dict[str, Shape]:
        """Shape of everything that is trained, and that the adapter's file holds, by parameter name."""
        return {**self.factors, **self.whole}

    @property
    def size(self) -> int:
        """How many numbers are trained."""
        return sum(map(math.prod, self.shapes.values()))


def make_plan(
    config: LoraConfig,
    family: Family,
    parameters: Mapping[str, Shape],
    linears: Iterable[str],
    stored: Collection[str] | None = None,
    prefix: str = "",
) -> AdapterPlan:
    """Find what the settings name in a model, as PEFT does.

    A target is not looked for inside a module that is trained whole.

    Args:
        parameters: shape of every parameter of the base model, by name.
        linears: paths of its linear layers.
        stored: names of the tensors of an adapter that was saved: names that match nothing do no harm then, embeddings
            may be adapted, and ``all-linear`` has the output head if it was adapted. None: one that will be trained.
        prefix: what stands before these names in the model that the settings speak of.

    Raises:
        InputError: nothing is adapted; a target is a module of another kind; or, to be trained, a name matches
            nothing: the names near to it are told.
    """
    return _Planning(config, family, parameters, list(linears), stored, prefix).plan()


def linear_layers(parameters: Mapping[str, Shape], family: Family) -> list[str]:
    """Paths of the linear layers of a model, from the names and shapes of its parameters."""
    matrices = [name.removesuffix(".weight") for name, shape in parameters.items() if len(shape) == 2]
    return [path for path in matrices if f"{path}.weight" in parameters and not is_embedding(path, family)]


def is_embedding(module: str, family: Family) -> bool:
    """Whether a module of a family's model is an embedding."""
    return any(fnmatchcase(module, pattern) for pattern in family.embeddings)


class _Planning:
    """The making of one plan; see ``make_plan``."""

    def __init__(
        self,
        config: LoraConfig,
        family: Family,
        parameters: Mapping[str, Shape],
        linears: list[str],
        stored: Collection[str] | None,
        prefix: str,
    ):
        self._config, self._family, self._parameters, self._stored = config, family, parameters, stored
        self._linears = linears
        self._prefix = prefix
        self._modules = list(dict.fromkeys(prefix for name in parameters for prefix in _prefixes(name)))
        self._selection = Selection(config, self._modules, prefix)

    def plan(self) -> AdapterPlan:
        whole = self._whole()
        embeddings = [name for name in self._modules if is_embedding(name, self._family)]
        able = [*self._linears, *(embeddings if self._stored is not None else ())]
        off = self._selection.saved | self._selection.excluded
        free = [name for name in able if name not in off and f"{name}.weight" not in whole]
        found = self._found(free, {*free, *off})
        wanted = {module for modules in found.values() for module in modules}
        adapted = {module: self._layer(module) for module in free if module in wanted}
        if not adapted:
            raise InputError(f"target_modules: {quote(self._config.target_modules)} matches no linear layer")
        if self._stored is None:
            self._refuse_unused(adapted)
        return AdapterPlan(self._spelled_out(found), adapted, whole)

    def _whole(self) -> dict[str, Shape]:
        """What is trained whole. PEFT looks at the ends of paths, not only after a dot."""
        saved = self._config.modules_to_save
        modules = {module for module in self._modules if (self._prefix + module).endswith(saved)}
        if self._stored is None:
            for name in saved:
                if not any((self._prefix + module).endswith(name) for module in modules):
                    raise InputError(
                        f"modules_to_save: the model has no module {quote(name)}{_near(name, self._modules)}"
                    )
        names = self._parameters.items()
        return {name: shape for name, shape in names if not modules.isdisjoint(_prefixes(name))}

    def _found(self, free: Sequence[str], known: Collection[str]) -> dict[str, list[str]]:
        """The layers that each target stands for; ``known``: modules that may be matched."""
        targets = self._config.target_modules
        if self._selection.expression is not None:
            found = {self._selection.expression: self._selection.targeted}
        elif isinstance(targets, str):
            head = self._family.output_head
            with_head = self._stored is not None and f"{head}.lora_A.weight" in self._stored
            return {targets: [name for name in free if name in self._linears and (name != head or with_head)]}
        else:
            found = self._selection.under([target for target in targets if target not in self._family.groups])
            found |= {target: self._group(target) for target in targets if target in self._family.groups}
        return {target: self._layers(target, modules, free, known) for target, modules in found.items()}

    def _layers(self, target: str, modules: Collection[str], free: Sequence[str], known: Collection[str]) -> list[str]:
        """Those of the modules that a target matches that are adapted."""
        layers = [name for name in free if name in modules]
        if not layers and self._stored is None:
            raise InputError(
                f"target_modules: {quote(target)} matches no linear layer that is not trained whole or excluded"
                f"{_near(target, [*self._linears, *self._family.groups])}"
            )
        chosen = [name for name in layers if self._selection.in_chosen_layer(name, target)]
        if others := [name for name in self._modules if name in modules and name not in known]:
            raise InputError(f"target_modules: {quote(target)} matches {others[0]} too, which is not a linear layer")
        return chosen

    def _group(self, group: str) -> set[str]:
        return {module for module in self._linears if self._family.group_of(f"{module}.weight") == group}

    def _layer(self, module: str) -> AdaptedLayer:
        r, alpha = self._selection.rank(module), self._selection.alpha(module)
        shape = self._parameters[f"{module}.weight"]
        return AdaptedLayer(shape, r, self._config.scaling(r, alpha), module not in self._linears)

    def _refuse_unused(self, adapted: Collection[str]) -> None:
        """What a typing error leaves without effect."""
        if unused := self._selection.unused_pattern(adapted):
            setting, key = unused
            raise InputError(f"{setting}: {quote(key)} matches no adapted layer{_near(key, adapted)}")
        if self._config.exclude_modules and not self._selection.excluded:
            raise InputError(f"exclude_modules: {quote(self._config.exclude_modules)} matches no module")

    def _spelled_out(self, found: Mapping[str, Sequence[str]]) -> LoraConfig:
        """The settings with the layers for the words that PEFT does not know, or would read for another model."""
        if self._selection.expression is not None:
            return self._config
        groups = self._family.groups
        named = isinstance(self._config.target_modules, tuple)
        names = [
            [target] if named and target not in groups else [self._prefix + module for module in modules]
            for target, modules in found.items()
        ]
        return replace(self._config, target_modules=tuple(dict.fromkeys(name for group in names for name in group)))


def _prefixes(parameter: str) -> list[str]:
    """The paths of the modules that a parameter lies in."""
    parts = parameter.split(".")
    return [".".join(parts[:count]) for count in range(1, len(parts))]


def _near(name: str, modules: Iterable[str]) -> str:
    """``; near to it: …``: what modules could be called, and resembles ``name``."""
    if len(name) > _NEAR_LENGTH:
        return ""
    known = {end for module in modules for end in ends(module)}
    near = difflib.get_close_matches(name, sorted(known), n=3)
    return f"; near to it: {', '.join(near)}" if near else ""
