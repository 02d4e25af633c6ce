"""Checkpoints of random weights in Qwen-VL's shape, and what the benchmarks of files do with them."""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from convert.qwenvl import WEIGHTS
from ms_impl.io.dtypes import BF16, FP32, DType, cast
from ms_impl.io.output import Kind, Output
from ms_impl.io.rules import HUGGING_FACE
from ms_impl.io.tensors import BLOCK_BYTES, Shape, Tensor
from ms_impl.qwenvl.config import QwenVLConfig

ROOT = Path(__file__).resolve().parents[1]
CONFIG = ROOT / "configs/qwenvl/qwenvl_9.6b/config.json"


@dataclass(frozen=True)
class RandomTensor(Tensor):
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


def make_checkpoint(directory: Path, fraction: float) -> None:
    """A bf16 Hugging Face directory in Qwen-VL's widths, with ``fraction`` of the layers and of the vocabulary."""
    raw = smaller(json.loads(CONFIG.read_text(encoding="utf-8")), fraction)
    shapes = WEIGHTS.shapes(QwenVLConfig.from_dict(raw, str(CONFIG)), HUGGING_FACE)
    values = np.random.default_rng(0).normal(0, 0.02, BLOCK_BYTES).astype(np.float32)
    pool = cast(values, FP32, BF16)
    tensors = [RandomTensor(name, shape, pool) for name, shape in shapes.items()]
    output = Output(directory, Kind.DIRECTORY, HUGGING_FACE)
    output.write(tensors, {"config.json": json.dumps(raw).encode()}, progress=lambda nbytes: None)


def smaller(raw: dict, fraction: float) -> dict:
    """A config.json with ``fraction`` of the layers and of the vocabulary, which ends with the same special tokens."""
    visual, vocab_size = raw["visual"], math.ceil(raw["vocab_size"] * fraction)
    start_id = visual["image_start_id"] - (raw["vocab_size"] - vocab_size)
    layers = {"layers": math.ceil(visual["layers"] * fraction), "image_start_id": start_id}
    number = math.ceil(raw["num_hidden_layers"] * fraction)
    return {**raw, "vocab_size": vocab_size, "num_hidden_layers": number, "visual": {**visual, **layers}}


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
