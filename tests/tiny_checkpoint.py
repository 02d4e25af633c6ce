"""Small checkpoints of any family, the golden Qwen-VL as one, and the conversion command run on them."""

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from convert.convert_weight import main
from ms_impl.families import Family
from ms_impl.io.rules import HUGGING_FACE
from ms_impl.io.tensors import ArrayTensor
from ms_impl.qwenvl.tokenizer import IMAGE_START, SPECIAL_TOKENS

Draw = Callable[[np.random.Generator, str, tuple[int, ...]], np.ndarray]


def normal(scale: float) -> Draw:
    """Every number around 0, with a standard deviation of ``scale``."""
    return lambda generator, name, shape: generator.normal(scale=scale, size=shape)


def around_one(norms: str, scale: float) -> Draw:
    """The same, but around 1 where ``norms`` stands in the name."""
    return lambda generator, name, shape: generator.normal(norms in name, scale, shape)


def write_checkpoint(
    directory: Path,
    family: Family,
    config: Mapping[str, Any],
    draw: Draw = normal(0.2),
    generator: np.random.Generator | None = None,
    **files: bytes | Mapping,
) -> Path:
    """A directory in Hugging Face's layout with random weights for a parsed config.json.

    ``files`` stand beside them: bytes, or what is written as JSON; ``__`` in a keyword is a dot.
    """
    directory.mkdir(parents=True, exist_ok=True)
    generator = generator or np.random.default_rng(0)
    shapes = family.resolve("weights").shapes(family.resolve("config").from_dict(config, "config"), HUGGING_FACE)
    weights = {name: draw(generator, name, shape).astype(np.float32) for name, shape in shapes.items()}
    save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})
    for name, content in {"config__json": config, **files}.items():
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        (directory / name.replace("__", ".")).write_bytes(data)
    return directory


def small_qwenvl(ranks: int, positions: int) -> dict[str, Any]:
    """The config.json of a Qwen-VL that is compiled in a second, for a vocabulary of ``ranks``."""
    return {
        "model_type": "qwen", "vocab_size": ranks + len(SPECIAL_TOKENS), "hidden_size": 128, "num_hidden_layers": 1,
        "num_attention_heads": 2, "kv_channels": 64, "intermediate_size": 256, "seq_length": 128,
        "max_position_embeddings": positions,
        "visual": {
            "heads": 2, "image_size": 56, "image_start_id": ranks + SPECIAL_TOKENS.index(IMAGE_START), "layers": 1,
            "mlp_ratio": 2.0, "output_dim": 128, "patch_size": 14, "width": 32, "n_queries": 16, "n_positions": 16,
        },
    }  # fmt: skip


def first_ranks(vocabulary_file: Path, count: int) -> bytes:
    """A ``qwen.tiktoken`` of the first ranks of the released one."""
    return b"".join(vocabulary_file.read_bytes().splitlines(keepends=True)[:count])


@pytest.fixture
def in_memory():
    """Make a tensor of a name, an array and an element type."""
    return ArrayTensor


GOLDEN = Path(__file__).parent / "golden/qwenvl_tiny"


@pytest.fixture
def tiny(tmp_path) -> Path:
    """The tiny Qwen-VL as a Hugging Face directory, with a vocabulary beside it."""
    directory = tmp_path / "tiny"
    directory.mkdir()
    for name in ("config.json", "model.safetensors"):
        shutil.copy(GOLDEN / name, directory)
    (directory / "qwen.tiktoken").write_text("IQ== 0\n")
    return directory


@pytest.fixture
def convert_weight(capsys):
    """Run the command for Qwen-VL; returns its exit status and what it wrote to the two streams."""

    def run(*arguments, model: str = "qwenvl"):
        status = main(["--model", model, *map(str, arguments)])
        streams = capsys.readouterr()
        return status, streams.out, streams.err

    return run


@pytest.fixture
def snapshot(tiny, tmp_path) -> Path:
    """The tiny checkpoint as a Hugging Face hub cache has it: a directory of links to files that hashes name."""
    cache = tmp_path / "models--tiny"
    blobs, snapshot = cache / "blobs", cache / "snapshots/0123"
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for number, file in enumerate(sorted(tiny.iterdir())):
        file.rename(blobs / f"{number:040x}")
        (snapshot / file.name).symlink_to(f"../../blobs/{number:040x}")
    return snapshot
