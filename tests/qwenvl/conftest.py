"""The tokenizer with the released vocabulary, and a small model's configuration with the vocabulary to match."""

import pytest

from ms_impl.qwenvl.config import QwenVLConfig
from ms_impl.qwenvl.tokenizer import SPECIAL_TOKENS, QwenVLTokenizer


@pytest.fixture(scope="session")
def tokenizer(vocabulary_file) -> QwenVLTokenizer:
    return QwenVLTokenizer(vocabulary_file, num_queries=256)


@pytest.fixture(scope="session")
def config(golden_dir) -> QwenVLConfig:
    return QwenVLConfig.from_file(golden_dir)


@pytest.fixture(scope="session")
def small_vocabulary(vocabulary_file, config, tmp_path_factory):
    """The first ranks of the released vocabulary, as many as put ``<img>`` at the configuration's id."""
    ranks = config.image_start_id - SPECIAL_TOKENS.index("<img>")
    path = tmp_path_factory.mktemp("vocabulary") / "qwen.tiktoken"
    path.write_bytes(b"".join(vocabulary_file.read_bytes().splitlines(keepends=True)[:ranks]))
    return path
