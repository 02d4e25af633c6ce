"""Random checkpoints at released sizes, shard by shard, whose logits are not degenerate; and digests of checkpoints."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from ms_impl.families import Family
from ms_impl.io.checkpoint import open_checkpoint
from ms_impl.io.dtypes import BF16, FP32, DType, cast
from ms_impl.io.json_files import read_json
from ms_impl.io.output import Kind, Output
from ms_impl.io.rules import HUGGING_FACE
from ms_impl.io.tensors import BLOCK_BYTES, CheckpointTensor, Shape

_LAYERS = ("num_hidden_layers", "layers", "depth", "encoder_layers")
_WORDS = (
    "wte.weight",
    "embed_tokens.weight",
    "vte.weight",
)  # small: as a tied head they would only repeat the last one
_POSITIONS = ("position_embedding.weight", "positional_embedding", "pos_embed")


@cache
def normal_pool() -> np.ndarray:
    """Two blocks of numbers, normally distributed."""
    return np.random.default_rng(0).normal(size=BLOCK_BYTES).astype(np.float32)


@cache
def scaled_pool(mean: float, scale: float) -> np.ndarray:
    """The same of another mean and deviation, in bf16."""
    return cast((mean + scale * normal_pool()).astype(np.float32), FP32, BF16)


@dataclass(frozen=True)
class ScaledTensor(CheckpointTensor):
    """Random weights; each block begins elsewhere in its pool, at a place that the tensor's name decides."""

    name: str
    shape: Shape
    dtype: DType = BF16

    def array(self) -> np.ndarray:
        return np.concatenate(list(self.blocks())).reshape(self.shape)

    def blocks(self) -> Iterator[np.ndarray]:
        pool = scaled_pool(*distribution(self.name, self.shape))
        rng, length = np.random.default_rng(list(self.name.encode())), len(pool) // 2
        for start in range(0, self.size, length):
            begin = int(rng.integers(length))
            yield pool[begin : begin + min(length, self.size - start)]


def distribution(name: str, shape: Shape) -> tuple[float, float]:
    """Mean and deviation that keep states and logits about as large as those of trained models."""
    if len(shape) == 1:
        return (1.0, 0.1) if name.endswith("weight") else (0.0, 0.02)
    if name.endswith(_WORDS):
        return 0.0, 0.05
    if name.endswith(_POSITIONS):
        return 0.0, 0.5
    inputs = math.prod(shape[1:])
    return 0.0, float(np.float32(1 / math.sqrt(inputs)))


def configuration(family: Family, source: Path, layers: int | None) -> dict[str, Any]:
    """A released config.json, with at most so many layers in each part of the model."""
    return _cut(read_json(source), layers) if layers else read_json(source)


def _cut(raw: Any, layers: int) -> Any:
    if not isinstance(raw, dict):
        return raw
    changed = {key: min(value, layers) if key in _LAYERS else _cut(value, layers) for key, value in raw.items()}
    if raw.get("fullatt_block_indexes"):
        changed["fullatt_block_indexes"] = [layers - 1]
    return changed


def make(directory: Path, family: Family, raw: dict[str, Any]) -> int:
    """A Hugging Face directory of random bf16 weights; its number of parameters."""
    config = family.resolve("config").from_dict(raw, "config.json")
    shapes = family.resolve("weights").shapes(config, HUGGING_FACE)
    output = Output(directory, Kind.DIRECTORY, HUGGING_FACE)
    tensors = [ScaledTensor(name, shape) for name, shape in shapes.items()]
    output.write(tensors, {"config.json": json.dumps(raw).encode()}, progress=lambda nbytes: None)
    return sum(map(math.prod, shapes.values()))


def digest(directory: Path) -> str:
    """sha256 of all tensors of a checkpoint: names, types, shapes and bytes, in the order of their names."""
    found = hashlib.sha256()
    for name, tensor in sorted(open_checkpoint(directory).tensors.items()):
        found.update(f"{name} {tensor.dtype} {tensor.shape} ".encode())
        for block in tensor.blocks():
            found.update(block)
    return found.hexdigest()
