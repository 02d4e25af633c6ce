"""A model small enough to be compiled in a second, with random weights, and a vocabulary to match."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny_checkpoint import first_ranks, small_qwenvl, write_checkpoint

from ms_impl import families

RANKS = 1000
GENERATION = {"chat_format": "chatml", "top_p": 0.9, "max_new_tokens": 12}


@pytest.fixture(scope="session")
def mini(tmp_path_factory, vocabulary_file) -> Path:
    """A Hugging Face checkpoint directory with an image ``a.png`` and another ``b.png`` in it."""
    generator = np.random.default_rng(0)
    directory = write_checkpoint(
        tmp_path_factory.mktemp("mini"), families.get("qwenvl"), small_qwenvl(RANKS, 1100), generator=generator,
        generation_config__json=GENERATION, qwen__tiktoken=first_ranks(vocabulary_file, RANKS),
    )  # fmt: skip
    for name in ("a.png", "b.png"):
        Image.fromarray(generator.integers(0, 256, (60, 80, 3), dtype=np.uint8)).save(directory / name)
    return directory
