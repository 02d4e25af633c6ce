"""An adapter's directory as PEFT has it: adapter_config.json and adapter_model.safetensors."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from ms_impl.adapters import base_check
from ms_impl.adapters.config import CONFIG_NAME, LoraConfig
from ms_impl.errors import InputError
from ms_impl.io import safetensors_files
from ms_impl.io.conversion import ConvertedTensor
from ms_impl.io.dtypes import FLOATS
from ms_impl.io.tensors import Shape, Tensor

WEIGHTS_NAME = "adapter_model.safetensors"

_PREFIX = "base_model.model."  # PEFT's wrappers around the model
_SAMPLE_KEY = "base_sample"  # in the metadata of the weights, which PEFT does not read


@dataclass(frozen=True)
class AdapterFiles:
    """What an adapter's directory holds, not read yet.

    Attributes:
        tensors: by the name that the parameter has in the model.
        base: values of the base weights it was trained on; empty where PEFT wrote the file.
    """

    directory: Path
    config: LoraConfig
    tensors: Mapping[str, Tensor]
    base: base_check.Sample

    def __str__(self) -> str:
        made_on = self.config.base_model_name_or_path
        return f"the adapter {self.directory}" + (f", made on {made_on}," if made_on else "")

    def check(self, expected: Mapping[str, Shape]) -> None:
        """Raise InputError, listing every fault, unless the tensors are those expected, by name and shape."""
        faults = [f"missing: {name} {list(shape)}" for name, shape in expected.items() if name not in self.tensors]
        for name, tensor in self.tensors.items():
            if name not in expected:
                faults.append(f"extra: {name} {list(tensor.shape)}")
            elif tensor.shape != expected[name]:
                faults.append(f"misshapen: {name} is {list(tensor.shape)}, expected {list(expected[name])}")
            if tensor.dtype.name not in FLOATS:
                faults.append(f"element type: {name} is {tensor.dtype}, expected one of {', '.join(FLOATS)}")
        if faults:
            raise InputError(f"{self.directory}: the adapter does not fit the model:\n  " + "\n  ".join(faults))


def read(directory: str | Path) -> AdapterFiles:
    """Open an adapter that this project or PEFT saved.

    Raises:
        InputError: a file is missing or damaged, or the adapter needs what is not implemented here.
    """
    directory = Path(directory)
    if not directory.is_dir():
        raise InputError(f"{directory}: no such directory; name the one that holds {CONFIG_NAME}")
    config, path = LoraConfig.read(directory), directory / WEIGHTS_NAME
    if not path.is_file():
        raise InputError(f"{path}: no such file; save the adapter as safetensors")
    stored, metadata = safetensors_files.read(path)
    if foreign := [name for name in stored if not name.startswith(_PREFIX)]:
        raise InputError(f"{path}: tensor '{foreign[0]}' is none of an adapter's: its name lacks '{_PREFIX}'")
    taken = base_check.parse(metadata[_SAMPLE_KEY], str(path)) if _SAMPLE_KEY in metadata else {}
    tensors = [_renamed(tensor, tensor.name.removeprefix(_PREFIX)) for tensor in stored.values()]
    return AdapterFiles(directory, config, {tensor.name: tensor for tensor in tensors}, taken)


def write(directory: Path, config: LoraConfig, tensors: Iterable[Tensor], taken: base_check.Sample) -> None:
    """Write an adapter's two files into a directory that is there. ``tensors`` have the model's names."""
    (directory / CONFIG_NAME).write_text(config.to_json(), encoding="utf-8")
    renamed = [_renamed(tensor, _PREFIX + tensor.name) for tensor in tensors]
    with open(directory / WEIGHTS_NAME, "wb") as file:
        metadata = {"format": "pt", _SAMPLE_KEY: base_check.dump(taken)}
        safetensors_files.write(file, safetensors_files.canonical_order(renamed), metadata, lambda written: None)


def _renamed(tensor: Tensor, name: str) -> Tensor:
    return ConvertedTensor(name, tensor.shape, tensor.dtype, (tensor,), operations=(), index=0)
