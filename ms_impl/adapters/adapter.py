"""LoRA layers in a MindSpore model: put in, saved, loaded, merged and taken apart again."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from zlib import crc32

import numpy as np
from mindspore import Parameter, nn

from ms_impl.adapters import base_check, files
from ms_impl.adapters.config import LoraConfig
from ms_impl.adapters.merging import MergedTensor
from ms_impl.adapters.targets import AdapterPlan, make_plan
from ms_impl.cells.linear import Linear
from ms_impl.cells.lora import DropoutSeeds, LoraLinear, SeededDropout
from ms_impl.errors import InputError
from ms_impl.families import Family
from ms_impl.io.dtypes import CastLoss, cast
from ms_impl.io.tensors import ArrayTensor, CheckpointTensor
from ms_impl.weights import ParameterTensor, set_parameter

DROPOUT_SEEDS = "lora_dropout_seeds"  # the parameter that holds a batch's seeds

logger = logging.getLogger(__name__)


def plan_for(model: nn.Cell, config: LoraConfig, family: Family) -> AdapterPlan:
    """What ``config`` would adapt in a model, which may be one without memory (``no_init_parameters``)."""
    shapes = {name: tuple(parameter.shape) for name, parameter in model.parameters_dict().items()}
    linears = [path for path, cell in model.cells_and_names() if type(cell) is Linear]
    return make_plan(config, family, shapes, linears, prefix=_outer_path(model, family))


def _outer_path(model: nn.Cell, family: Family) -> str:
    """What stands before our names in the model that the checkpoint belongs to, and that PEFT would adapt."""
    return family.resolve("weights").prefix(model.config)


def inject(model: nn.Cell, config: LoraConfig, family: Family, seed: int, rows: int = 1) -> Adapter:
    """Put a new adapter into a model and freeze all but it and the modules that it trains whole.

    Base parameters keep their names, so weights may be loaded before or after. Do this before the layers are set to
    recompute, and after they are sharded. A is drawn as PEFT draws it, uniform within ±1/√in; B is zero.

    Args:
        seed: of the draws; each layer's depend on it and on the layer's name alone.
        rows: B, the rows of a training batch; dropout keeps one seed for each.

    Raises:
        InputError: the settings name something that the model does not have.
    """
    plan = plan_for(model, config, family)
    for name, parameter in model.parameters_dict().items():
        parameter.requires_grad = name in plan.whole
    seeds = DropoutSeeds(rows) if config.lora_dropout else None
    cells, layers = dict(model.cells_and_names()), {}
    for path, layer in plan.adapted.items():
        out_size, in_size = layer.shape
        bound = 1.0 / math.sqrt(in_size)
        draws = np.random.default_rng((seed, crc32(path.encode())))
        a = draws.uniform(-bound, bound, (layer.r, in_size)).astype(np.float32)
        b = np.zeros((out_size, layer.r), np.float32)
        dropout = SeededDropout(config.lora_dropout, in_size, path, seeds) if seeds else nn.Identity()
        layers[path] = LoraLinear(cells[path], a, b, layer.scaling, dropout)
        _replace(cells, path, layers[path])
    if seeds:
        seeds.values.name = DROPOUT_SEEDS  # else it would be called after the last layer that reads it
    vars(model).pop("decoders", None)  # they were compiled for the layers as they were
    return Adapter(model, plan, layers, seeds, family)


class Adapter:
    """A model's LoRA layers.

    Attributes:
        plan: what is trained, by name and shape.
        seeds: the cell to call with the batch's seeds, int32 [B], before a training step's forward pass; None where
            there is no dropout.
    """

    def __init__(
        self,
        model: nn.Cell,
        plan: AdapterPlan,
        layers: Mapping[str, LoraLinear],
        seeds: DropoutSeeds | None,
        family: Family,
    ):
        self.plan = plan
        self._family = family
        self.seeds = seeds
        self._model = model
        self._layers = layers
        self._kept: list[tuple[Parameter, ArrayTensor]] = []  # what merging changed, as it was before

    def parameters(self) -> dict[str, Parameter]:
        """What is trained, and what ``save`` writes, by name."""
        parameters = self._model.parameters_dict()
        return {name: parameters[name] for name in self.plan.shapes}

    def save(self, directory: Path, base_path: str | None = None) -> None:
        """Write adapter_config.json and adapter_model.safetensors, in PEFT's format, into a directory that is there.

        Args:
            base_path: where the base weights are, for adapter_config.json; None: what the settings say.
        """
        self._refuse_merged("saved")
        config = self.plan.config
        if base_path:
            config = replace(config, base_model_name_or_path=base_path)
        tensors = map(ParameterTensor, self.parameters().values())
        files.write(directory, config, tensors, self._base_sample, _outer_path(self._model, self._family))

    def load(self, directory: str | Path) -> None:
        """Take over an adapter that this project or PEFT saved. The model must have its base weights.

        Raises:
            InputError: the files are damaged, the adapter is for another base, or differs in rank, scaling, layers or
                modules trained whole from what was put into the model; every fault is listed.
        """
        self._refuse_merged("replaced")
        stored = files.read(directory, self._family)
        stored.config.check_scaling(self.plan.config, str(directory))
        parameters = self._model.parameters_dict()
        brought = stored.check(self.plan, {name: tuple(values.shape) for name, values in parameters.items()})
        base_check.check(stored.base, self._adapted_weights(), str(stored), "the one loaded")
        stored.check_values()
        _refuse_other_base(stored, {parameters[name]: tensor for name, tensor in brought.items()})
        lost = CastLoss()
        for name, parameter in self.parameters().items():
            set_parameter(parameter, stored.tensors[name], lost)
        if lost.overflow:
            logger.warning("%s: %d values are too large for the model and became infinite", directory, lost.overflow)

    def merge(self) -> None:
        """Add the update to the weights, and make it zero beside them: the plain layers answer as before.

        Graphs that were compiled before stay right. The factors are still multiplied; a checkpoint without them is
        what ``convert/merge_adapter.py`` makes.
        """
        self._refuse_merged("merged")
        for layer in self._layers.values():
            weight, a, b = map(ParameterTensor, (layer.weight, layer.lora_A.weight, layer.lora_B.weight))
            self._kept += [(layer.weight, _copy(weight)), (layer.lora_B.weight, _copy(b))]
            set_parameter(layer.weight, MergedTensor(weight, a, b, layer.scaling), CastLoss())
            set_parameter(layer.lora_B.weight, replace(_copy(b), values=np.zeros_like(b.array())), CastLoss())

    def unmerge(self) -> None:
        """Undo ``merge``, bit for bit."""
        for parameter, kept in self._kept:
            set_parameter(parameter, kept, CastLoss())
        self._kept = []

    def _refuse_merged(self, verb: str) -> None:
        if self._kept:
            raise RuntimeError(f"the adapter is merged into the weights; unmerge it before it is {verb}")

    @cached_property
    def _base_sample(self) -> base_check.ValueSample:
        """Taken once: the weights are frozen, and reading them all at every checkpoint would take its time."""
        return base_check.sample(self._adapted_weights())

    def _adapted_weights(self) -> dict[str, ParameterTensor]:
        return {layer.weight.name: ParameterTensor(layer.weight) for layer in self._layers.values()}


def _refuse_other_base(stored: files.AdapterFiles, brought: Mapping[Parameter, CheckpointTensor]) -> None:
    """What PEFT puts into the base would be lost here, where the base is frozen and not saved."""
    for parameter, tensor in brought.items():
        own = ParameterTensor(parameter)
        if not np.array_equal(cast(tensor.array(), tensor.dtype, own.dtype), own.array()):
            raise InputError(
                f"{stored} brings {parameter.name} of a base that differs from the one loaded; merge it into its base "
                "and train that"
            )


def _copy(tensor: ParameterTensor) -> ArrayTensor:
    return ArrayTensor(tensor.name, tensor.array().copy(), tensor.dtype)


def _replace(cells: Mapping[str, nn.Cell], path: str, layer: nn.Cell) -> None:
    """Set the cell at a path; its parameters are named after their place, as everywhere in the model."""
    place, _, attribute = path.rpartition(".")
    parent = cells[place]
    setattr(parent, attribute, layer)
    if isinstance(parent, nn.SequentialCell):
        parent.cell_list = list(parent.name_cells().values())  # what it runs; setattr leaves it as it was
    layer.update_parameters_name(f"{path}.")  # setattr named them after the last part of the path alone
