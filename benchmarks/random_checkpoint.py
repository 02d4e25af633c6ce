"""Checkpoints of random weights in the shape of any family's model, and what the benchmarks of files do with them."""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ms_impl.errors import InputError
from ms_impl.families import Family
from ms_impl.io.dtypes import BF16, FP32, DType, cast
from ms_impl.io.json_files import read_json
from ms_impl.io.output import Kind, Output
from ms_impl.io.rules import HUGGING_FACE
from ms_impl.io.tensors import BLOCK_BYTES, CheckpointTensor, Shape

ROOT = Path(__file__).resolve().parents[1]

# Keys of config.json: numbers of layers, and the endings of those of token ids.
_LAYERS = {"num_hidden_layers", "layers", "depth", "encoder_layers"}
_IDS = ("_id", "_index")


@dataclass(frozen=True)
class RandomTensor(CheckpointTensor):
    """Normally distributed weights; every block begins elsewhere in ``pool``, which holds two blocks of them."""

    name: str
    shape: Shape
    pool: np.ndarray
    dtype: DType = BF16

    def array(self) -> np.ndarray:
        return np.concatenate(list(self.blocks())).reshape(self.shape)

    def blocks(self) -> Iterator[np.ndarray]:
        rng, length = np.random.default_rng(self.size), len(self.pool) // 2
        for start in range(0, self.size, length):
            begin = int(rng.integers(length))
            yield self.pool[begin : begin + min(length, self.size - start)]


def full_size(family: Family, given: Path | None = None) -> Path:
    """The config.json ``given``, or the largest that the repository has of a family."""
    if given:
        return given / "config.json" if given.is_dir() else given
    found = {_count(family, path): path for path in (ROOT / "configs" / family.name).glob("*/config.json")}
    if not found:
        raise InputError(f"configs/{family.name} holds no config.json of the family; give one with --config")
    return found[max(found)]


def _count(family: Family, config_file: Path) -> int:
    """Parameters of a model."""
    shapes = family.resolve("weights").shapes(family.resolve("config").from_file(config_file), HUGGING_FACE)
    return sum(map(math.prod, shapes.values()))


def make_checkpoint(directory: Path, fraction: float, family: Family, config_file: Path) -> None:
    """A bf16 Hugging Face directory in a model's widths, with ``fraction`` of the layers and of the vocabulary."""
    raw = smaller(read_json(config_file), fraction)
    config = family.resolve("config").from_dict(raw, str(config_file))
    values = np.random.default_rng(0).normal(0, 0.02, BLOCK_BYTES).astype(np.float32)
    pool = cast(values, FP32, BF16)
    shapes = family.resolve("weights").shapes(config, HUGGING_FACE)
    tensors = [RandomTensor(name, shape, pool) for name, shape in shapes.items()]
    output = Output(directory, Kind.DIRECTORY, HUGGING_FACE)
    output.write(tensors, {"config.json": json.dumps(raw).encode()}, progress=lambda nbytes: None)


def smaller(raw: Any, fraction: float) -> Any:
    """A config.json with ``fraction`` of the layers and of the vocabularies, which end with the same special tokens."""
    cut = max((size - _part(size, fraction) for size in _values(raw, "vocab_size")), default=0)
    return _smaller(raw, fraction, cut)


def _smaller(raw: Any, fraction: float, cut: int) -> Any:
    if not isinstance(raw, dict):
        return raw
    changed = {key: _smaller(value, fraction, cut) for key, value in raw.items()}
    for key in _LAYERS & raw.keys() | {key for key in raw if key.endswith("vocab_size")}:
        changed[key] = _part(raw[key], fraction)
    for key in (key for key in raw if key.endswith(_IDS) and isinstance(raw[key], int) and raw[key] > cut):
        changed[key] = raw[key] - cut
    layers = [changed[key] for key in _LAYERS & raw.keys()]
    if layers and raw.get("fullatt_block_indexes"):
        changed["fullatt_block_indexes"] = [index for index in raw["fullatt_block_indexes"] if index < layers[0]]
    return changed


def _part(number: int, fraction: float) -> int:
    return math.ceil(number * fraction)


def _values(raw: Any, key: str) -> Iterator[int]:
    """What stands under a key, at any depth."""
    for name, value in raw.items():
        if isinstance(value, dict):
            yield from _values(value, key)
        elif name == key:
            yield value


def files_of(path: Path) -> list[Path]:
    """The file, or the files of the directory, that a checkpoint is."""
    return sorted(path.iterdir()) if path.is_dir() else [path]


def size_of(path: Path) -> int:
    """Bytes on disk of a checkpoint."""
    return sum(file.stat().st_size for file in files_of(path))


def drop_from_cache(path: Path) -> None:
    """Have the next reading come from the disk. Only what has been synced is dropped."""
    for file in files_of(path):
        descriptor = os.open(file, os.O_RDONLY)
        try:
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)


def remove(path: Path) -> None:
    """Remove a checkpoint, if it is there."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
