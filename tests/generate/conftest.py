"""A model small enough to be compiled in a second, with random weights, and a vocabulary to match."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file

from ms_impl import families
from ms_impl.io.rules import HUGGING_FACE
from ms_impl.qwenvl.config import QwenVLConfig, VisionConfig
from ms_impl.qwenvl.tokenizer import SPECIAL_TOKENS

RANKS = 1000
GENERATION = {"chat_format": "chatml", "top_p": 0.9, "max_new_tokens": 12}


def mini_config() -> QwenVLConfig:
    visual = VisionConfig(
        heads=2, image_size=56, image_start_id=RANKS + SPECIAL_TOKENS.index("<img>"), layers=1, mlp_ratio=2.0,
        output_dim=128, patch_size=14, width=32, n_queries=16, n_positions=16,
    )  # fmt: skip
    return QwenVLConfig(
        vocab_size=RANKS + len(SPECIAL_TOKENS), hidden_size=128, num_hidden_layers=1, num_attention_heads=2,
        kv_channels=64, intermediate_size=256, seq_length=128, max_position_embeddings=1100, visual=visual,
    )  # fmt: skip


@pytest.fixture(scope="session")
def mini(tmp_path_factory, vocabulary_file) -> Path:
    """A Hugging Face checkpoint directory with an image ``a.png`` and another ``b.png`` in it."""
    directory, config = tmp_path_factory.mktemp("mini"), mini_config()
    generator = np.random.default_rng(0)
    shapes = families.get("qwenvl").resolve("weights").shapes(config, HUGGING_FACE)
    weights = {name: generator.normal(scale=0.2, size=shape).astype(np.float32) for name, shape in shapes.items()}
    save_file(weights, directory / "model.safetensors", {"format": "pt"})
    (directory / "config.json").write_text(json.dumps(config.to_dict()))
    (directory / "generation_config.json").write_text(json.dumps(GENERATION))
    ranks = vocabulary_file.read_bytes().splitlines(keepends=True)[:RANKS]
    (directory / "qwen.tiktoken").write_bytes(b"".join(ranks))
    for name in ("a.png", "b.png"):
        Image.fromarray(generator.integers(0, 256, (60, 80, 3), dtype=np.uint8)).save(directory / name)
    return directory
