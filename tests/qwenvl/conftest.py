"""A small model's configuration, and the vocabulary to match."""

from pathlib import Path

import pytest

from ms_impl.qwenvl.config import QwenVLConfig
from ms_impl.qwenvl.tokenizer import SPECIAL_TOKENS


@pytest.fixture(scope="session")
def config() -> QwenVLConfig:
    return QwenVLConfig.from_file(Path(__file__).parents[1] / "golden" / "qwenvl_tiny")


@pytest.fixture(scope="session")
def small_vocabulary(vocabulary_file, config, tmp_path_factory) -> Path:
    """The first ranks of the released vocabulary, as many as put ``<img>`` at the configuration's id."""
    ranks = config.image_start_id - SPECIAL_TOKENS.index("<img>")
    path = tmp_path_factory.mktemp("vocabulary") / "qwen.tiktoken"
    path.write_bytes(b"".join(vocabulary_file.read_bytes().splitlines(keepends=True)[:ranks]))
    return path
