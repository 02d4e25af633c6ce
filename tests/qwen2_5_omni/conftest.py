"""What the original processor produced, and tokenizers from each kind of file."""

import json
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "media"))
from clips import write_clip
from omni_vocabulary import write_hugging_face

from ms_impl.qwen2_5_omni.config import Qwen2_5OmniConfig
from ms_impl.qwen2_5_omni.template import Qwen2_5OmniTemplate
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


@pytest.fixture(scope="session")
def omni_config() -> Qwen2_5OmniConfig:
    """The tiny model with the released ids."""
    raw = json.loads((GOLDEN / "qwen2_5_omni_tiny" / "config.json").read_text())
    ids = {"audio_token_index": 151646, "image_token_index": 151655, "video_token_index": 151656,
           "audio_start_token_id": 151647, "audio_end_token_id": 151648, "vision_start_token_id": 151652,
           "vision_end_token_id": 151653}  # fmt: skip
    raw["text_config"]["vocab_size"] = 152064
    raw["audio_config"]["num_mel_bins"] = 128
    return Qwen2_5OmniConfig.from_dict({**raw, **ids})


@pytest.fixture(scope="session")
def make_template(omni_tokenizer, omni_config):
    """A template with other options than the defaults."""
    from ms_impl.qwen2_5_omni.options import OmniOptions

    def make(max_length=None, **options) -> Qwen2_5OmniTemplate:
        return Qwen2_5OmniTemplate(omni_tokenizer, omni_config, max_length, OmniOptions(**options))

    return make


@pytest.fixture(scope="session")
def omni_clip(tmp_path_factory) -> Path:
    """4 s at 10 frames a second with sound; at second 3 it turns white and a tone sounds."""
    return write_clip(tmp_path_factory.mktemp("omni") / "clip.mp4", frames=40, rate=10, size=(56, 84), event=3.0)


@pytest.fixture(scope="session")
def silent_clip(tmp_path_factory) -> Path:
    return write_clip(tmp_path_factory.mktemp("omni") / "silent.mp4", frames=20, rate=10, size=(56, 84), sound=False)
