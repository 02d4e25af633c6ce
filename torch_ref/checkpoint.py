"""Hugging Face checkpoint directories into PyTorch modules: safetensors or ``pytorch_model*.bin``, never unpickled."""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from ms_impl.errors import InputError

_LAYOUTS = ("model.safetensors.index.json", "model.safetensors", "pytorch_model.bin.index.json", "pytorch_model.bin")


def shards(directory: str | Path) -> list[Path]:
    """The weight files of a checkpoint directory, in the order of its index."""
    directory = Path(directory)
    layout = next((directory / name for name in _LAYOUTS if (directory / name).is_file()), None)
    if layout is None:
        raise InputError(f"{directory}: no weights here; expected one of {', '.join(_LAYOUTS)}")
    if layout.suffix != ".json":
        return [layout]
    try:
        names = json.loads(layout.read_text(encoding="utf-8"))["weight_map"].values()
        files = [directory / name for name in dict.fromkeys(names)]
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise InputError(f"{layout}: not a weight index ({error!r})") from error
    absent = [file.name for file in files if not file.is_file()]
    if absent:
        raise InputError(f"{layout}: names shards that are not there: {', '.join(absent)}")
    return files


def read_shard(path: Path) -> Iterator[tuple[str, Tensor]]:
    """Name and memory-mapped tensor of all that one weight file holds."""
    try:
        if path.suffix == ".safetensors":
            with safe_open(path, framework="pt") as file:
                for name in file.keys():
                    yield name, file.get_tensor(name)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
            if not isinstance(state, dict) or not all(isinstance(tensor, Tensor) for tensor in state.values()):
                raise InputError(f"{path}: holds something else than a dictionary of tensors")
            yield from state.items()
    except (SafetensorError, OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise InputError(f"{path}: not a whole weight file ({error})") from error


def load_checkpoint(module: nn.Module, directory: str | Path, dtype: torch.dtype = torch.float32) -> None:
    """Give a module (on the meta device or not) the weights of a directory, cast to ``dtype``.

    Raises:
        InputError: listing every missing, extra or misshapen tensor; the module is then unchanged.
    """
    wanted = {name: tuple(p.shape) for name, p in module.named_parameters()}
    state = {name: tensor for path in shards(directory) for name, tensor in read_shard(path)}
    faults = [f"missing {name} {list(shape)}" for name, shape in wanted.items() if name not in state]
    faults += [f"unexpected {name} {list(tensor.shape)}" for name, tensor in state.items() if name not in wanted]
    faults += [
        f"{name} has shape {list(tensor.shape)}, expected {list(wanted[name])}"
        for name, tensor in state.items()
        if name in wanted and tuple(tensor.shape) != wanted[name]
    ]
    if faults:
        raise InputError(f"{directory}: the weights do not fit the model:\n  " + "\n  ".join(faults))
    module.load_state_dict({name: tensor.to(dtype) for name, tensor in state.items()}, assign=True)
