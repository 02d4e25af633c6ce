"""Hugging Face checkpoint directories into PyTorch modules: safetensors or ``pytorch_model*.bin``, never unpickled."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor, nn

from ms_impl.errors import InputError
from ms_impl.io import checkpoint

logger = logging.getLogger(__name__)


def shards(directory: str | Path) -> list[Path]:
    """The weight files of a checkpoint directory, in the order of their names; chosen as transformers chooses."""
    main, choice = checkpoint.find_weights(Path(directory))
    if choice:
        logger.warning("%s", choice)
    return list(checkpoint.shards(main, checkpoint.read_index(main))) if main.suffix == ".json" else [main]


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
    except InputError:
        raise
    except Exception as error:  # torch has no error of its own for a damaged file
        raise InputError(f"{path}: not a whole weight file ({str(error)[:500]})") from error


def load_checkpoint(module: nn.Module, directory: str | Path, dtype: torch.dtype = torch.float32) -> None:
    """Give a module (on the meta device or not) the weights of a directory, cast to ``dtype``.

    Raises:
        InputError: listing every missing or extra tensor and every wrong shape; the module is then unchanged.
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
