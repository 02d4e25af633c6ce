"""What the original processor produced, and tokenizers from each kind of file."""

import json
from pathlib import Path

import pytest
from omni_vocabulary import write_hugging_face

from ms_impl.qwen2_5_omni.tokenizer import Qwen2_5OmniTokenizer

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.fixture(scope="session")
def cases(request) -> dict:
    """A file laid out as ``golden/qwen2_5_omni_processor.json``: that one, or what ``--cases`` names."""
    return json.loads(request.config.getoption("--cases").read_text(encoding="utf-8"))


@pytest.fixture(scope="session")
def vocabularies(vocabulary_file, tmp_path_factory) -> dict[str, Path]:
    """Checkpoint directories with the same vocabulary in each kind of file."""
    root = tmp_path_factory.mktemp("vocabularies")
    (root / "ranks").mkdir()
    (root / "ranks" / "qwen.tiktoken").symlink_to(vocabulary_file)
    write_hugging_face(vocabulary_file, root / "merges", root / "json")
    return {kind: root / kind for kind in ("ranks", "merges", "json")}


@pytest.fixture(scope="session")
def omni_tokenizer(vocabularies) -> Qwen2_5OmniTokenizer:
    return Qwen2_5OmniTokenizer.from_pretrained(vocabularies["ranks"])
