"""An adapter's directory as PEFT has it: adapter_config.json and adapter_model.safetensors, or .bin."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ms_impl.adapters import base_check
from ms_impl.adapters.config import CONFIG_NAME, LoraConfig
from ms_impl.adapters.targets import EMBEDDING_A, FACTOR_A, AdapterPlan
from ms_impl.errors import InputError, itemised, listed, quote
from ms_impl.families import Family
from ms_impl.io import safetensors_files, torch_files
from ms_impl.io.conversion import ConvertedTensor
from ms_impl.io.dtypes import FLOATS, FP32, cast
from ms_impl.io.tensors import CheckpointTensor, Shape

WEIGHTS_NAME = "adapter_model.safetensors"
TORCH_NAME = "adapter_model.bin"  # read where the other is not there, as PEFT does
PREFIX = "base_model.model."  # PEFT's wrappers around the model

_BASE_LAYER = ".base_layer.weight"  # of an adapted layer, which PEFT saves with embeddings and output heads
_SAMPLE_KEY = "base_sample"  # in the metadata of the weights, which PEFT does not read

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class AdapterFiles:
    """What an adapter's directory holds, not read yet.

    Attributes:
        tensors: by the name that the parameter has in the model.
        prefix: what stood before these names in the model that was adapted, beside PEFT's wrappers.
        base: values of the base weights it was trained on; empty where PEFT wrote the file.
    """

    directory: Path
    config: LoraConfig
    tensors: Mapping[str, CheckpointTensor]
    base: base_check.ValueSample
    prefix: str = ""

    def __str__(self) -> str:
        made_on = self.config.base_model_name_or_path
        return f"the adapter {self.directory}" + (f", made on {_short(made_on)}," if made_on else "")

    def check(self, plan: AdapterPlan, parameters: Mapping[str, Shape]) -> dict[str, CheckpointTensor]:
        """Check the tensors' names, shapes and types.

        Args:
            parameters: shape of every parameter of the base, by name.

        Returns:
            Weights of the base that stand in the file besides, by parameter name: PEFT saves those of embeddings and of
            an adapted output head, and puts them into the base when it loads the file.

        Raises:
            InputError: a tensor is missing, extra, of a wrong shape or of another type; every fault is listed.
        """
        expected = plan.shapes
        own = {name: _parameter(name, plan) for name in self.tensors if name not in expected}
        base = {name: parameter for name, parameter in own.items() if parameter in parameters}
        shapes = {**expected, **{name: parameters[parameter] for name, parameter in base.items()}}
        faults = self._faults(shapes, expected)
        if any(faults):
            raise InputError(f"{self.directory}: the adapter does not fit the model:{itemised(*faults)}")
        return {parameter: self.tensors[name] for name, parameter in base.items()}

    def _faults(self, shapes: Mapping[str, Shape], needed: Mapping[str, Shape]) -> tuple[list[str], ...]:
        """What is wrong, by kind; ``shapes``: of all that may be there."""
        held = {name: tensor for name, tensor in self.tensors.items() if name in shapes}
        missing = [f"missing: {name} {list(shape)}" for name, shape in needed.items() if name not in held]
        extra = [
            f"extra: {_short(name)} {quote(list(tensor.shape))}"
            for name, tensor in self.tensors.items()
            if name not in held
        ]
        wrong_shapes = [
            f"wrong shape: {name} is {quote(list(tensor.shape))}, expected {list(shapes[name])}"
            for name, tensor in held.items()
            if tensor.shape != shapes[name]
        ]
        types = [
            f"element type: {name} is {tensor.dtype}, expected one of {', '.join(FLOATS)}"
            for name, tensor in held.items()
            if tensor.dtype.name not in FLOATS
        ]
        return missing, extra, wrong_shapes, types

    def check_values(self) -> None:
        """Read all tensors, and raise InputError for one with values that are not finite."""
        for name, tensor in self.tensors.items():
            count = sum(_not_finite(block, tensor) for block in tensor.blocks())
            if count:
                raise InputError(
                    f"{self.directory}: {count:,} of the {tensor.size:,} values of tensor '{name}' are not finite; "
                    "the training that made this adapter diverged, or the file is damaged"
                )


def read(directory: str | Path, family: Family | None = None) -> AdapterFiles:
    """Open an adapter that this project or PEFT saved.

    Args:
        family: says what may stand before the names of parameters, of which the first that all have is taken, and
            which parts of the model are not built here: an adapter may name them, if it does not change them.

    Raises:
        InputError: a file is missing or damaged, or the adapter needs what is not implemented here.
    """
    directory = Path(directory)
    if not directory.is_dir():
        raise InputError(f"{directory}: no such directory; name the one that holds {CONFIG_NAME}")
    config = LoraConfig.read(directory)
    path, stored, metadata = _read_weights(directory)
    if family:
        stored = _without_skipped(path, stored, family)
    prefixes = family.adapter_prefixes if family else (PREFIX,)
    prefix = next((prefix for prefix in prefixes if all(name.startswith(prefix) for name in stored)), None)
    if prefix is None:
        foreign = next(name for name in stored if not name.startswith(prefixes[0]))
        raise InputError(
            f"{path}: tensor {quote(foreign)} is none of an adapter's: its name lacks '{' or '.join(prefixes)}'"
        )
    taken = base_check.parse(metadata[_SAMPLE_KEY], str(path)) if _SAMPLE_KEY in metadata else {}
    tensors = [renamed(tensor, tensor.name.removeprefix(prefix)) for tensor in stored.values()]
    return AdapterFiles(directory, config, {t.name: t for t in tensors}, taken, prefix.removeprefix(PREFIX))


def _without_skipped(path: Path, stored: Mapping[str, CheckpointTensor], family: Family) -> dict[str, CheckpointTensor]:
    """The tensors but those of parts of the model that are not built here.

    PEFT adapts these too where targets fit them, and training leaves them as they were: B is zero.
    """
    table = family.resolve("weights")
    skipped = {name: tensor for name, tensor in stored.items() if table.is_skipped(name.removeprefix(PREFIX))}
    for name, tensor in skipped.items():
        if not name.endswith((FACTOR_A, EMBEDDING_A)) and any(np.any(block) for block in tensor.blocks()):
            raise InputError(
                f"{path}: {_short(name)} changes a part of {family.name} that is not built here; "
                "make the adapter without it (exclude_modules)"
            )
    if skipped:
        logger.info("%s: skipped %d tensors that change nothing: %s", path, len(skipped), listed(skipped))
    return {name: tensor for name, tensor in stored.items() if name not in skipped}


def write(
    directory: Path,
    config: LoraConfig,
    tensors: Iterable[CheckpointTensor],
    taken: base_check.ValueSample,
    prefix: str = "",
) -> None:
    """Write an adapter's two files into a directory that is there.

    Args:
        tensors: with the model's names.
        prefix: what the model that PEFT sees has before these names.
    """
    (directory / CONFIG_NAME).write_text(config.to_json(), encoding="utf-8")
    named = [renamed(tensor, PREFIX + prefix + tensor.name) for tensor in tensors]
    with open(directory / WEIGHTS_NAME, "wb") as file:
        metadata = {"format": "pt", _SAMPLE_KEY: base_check.dump(taken)}
        safetensors_files.write(file, safetensors_files.canonical_order(named), metadata, lambda written: None)


def _read_weights(directory: Path) -> tuple[Path, Mapping[str, CheckpointTensor], Mapping[str, str]]:
    """The file that is read, its tensors by name, and its metadata."""
    path = directory / WEIGHTS_NAME
    if path.is_file():
        return path, *safetensors_files.read(path)
    if (directory / TORCH_NAME).is_file():
        return directory / TORCH_NAME, torch_files.read(directory / TORCH_NAME), {}
    raise InputError(f"{path}: no such file, nor {TORCH_NAME}; an adapter's weights are in one of them")


def _parameter(name: str, plan: AdapterPlan) -> str | None:
    """The parameter of the base that a tensor of the file, which is none of the adapter's, replaces."""
    module = name.removesuffix(_BASE_LAYER)
    if module != name:
        return f"{module}.weight" if module in plan.adapted else None
    return None if name.removesuffix(".weight") in plan.adapted else name


def _not_finite(block: np.ndarray, tensor: CheckpointTensor) -> int:
    return block.size - np.count_nonzero(np.isfinite(cast(block, tensor.dtype, FP32)))


def _short(text: str) -> str:
    return text if len(text) <= 120 else quote(text)


def renamed(tensor: CheckpointTensor, name: str) -> CheckpointTensor:
    """The same tensor under another name."""
    return ConvertedTensor(name, tensor.shape, tensor.dtype, (tensor,), operations=(), index=0)
