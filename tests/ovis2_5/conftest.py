"""The folder of golden vectors that the host's side is proven against, and tokenizers for it."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from golden_folder import golden_folder
from tiny_checkpoint import around_one, write_checkpoint

from ms_impl import families


@pytest.fixture(scope="session")
def ovis_folder(request) -> Path:
    return golden_folder(request.config, "ovis2_5")


@pytest.fixture(scope="session")
def formatter_cases(ovis_folder) -> dict:
    return json.loads((ovis_folder / "formatter.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="session")
def ovis_cases(ovis_folder) -> dict:
    return json.loads((ovis_folder / "cases.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="session")
def ovis_tokenizer(vocabulary_file, tmp_path_factory):
    """Qwen3's: the released ranks of Qwen's vocabulary are the same, its special tokens are not."""
    from ms_impl.ovis2_5.tokenizer import Ovis2_5Tokenizer

    directory = tmp_path_factory.mktemp("vocabulary")
    (directory / "qwen.tiktoken").symlink_to(vocabulary_file)
    return Ovis2_5Tokenizer.from_pretrained(directory)


@pytest.fixture(scope="session")
def make_template(ovis_folder, ovis_cases, ovis_tokenizer):
    """A template with the folder's tower and the released vocabulary, which the folder's model need not have."""
    from ms_impl.ovis2_5.config import Ovis2_5Config
    from ms_impl.ovis2_5.preprocessing import PixelRule
    from ms_impl.ovis2_5.template import Ovis2_5Template

    config = Ovis2_5Config.from_file(ovis_folder)
    config = replace(config, llm_config=replace(config.llm_config, vocab_size=151936))
    told = ovis_cases["preprocess"]
    rule = PixelRule(resample={"bilinear": 2, "bicubic": 3}[told["resample"]])
    limits = {
        "single_image_min_pixels": told["min_pixels"], "single_image_max_pixels": told["max_pixels"],
        "multiple_image_min_pixels": told["min_pixels"], "multiple_image_max_pixels": told["max_pixels"],
        "video_min_pixels": told["video_min_pixels"], "video_max_pixels": told["video_max_pixels"],
        "min_frames": 1, "max_frames": 64, "num_frames": 4, "dataset_dir": str(ovis_folder),
        "allow_outside_dataset_dir": True,
    }  # fmt: skip
    return lambda **options: Ovis2_5Template(ovis_tokenizer, config, rule, **{**limits, **options})


@pytest.fixture(scope="session")
def template(make_template):
    return make_template()


@pytest.fixture(scope="session")
def random_checkpoint(ovis_folder, vocabulary_file, tmp_path_factory) -> Path:
    """A directory with the folder's configuration, random weights and the released vocabulary."""
    raw = json.loads((ovis_folder / "config.json").read_text(encoding="utf-8"))
    raw["llm_config"]["vocab_size"] = 151936
    folder = tmp_path_factory.mktemp("ovis")
    (folder / "qwen.tiktoken").symlink_to(vocabulary_file)
    return write_checkpoint(folder, families.get("ovis2_5"), raw, around_one("norm", 0.2))


@pytest.fixture(scope="session")
def loaded(random_checkpoint):
    """Model and template of it."""
    from ms_impl.generate.load import load

    return load(random_checkpoint, dtype="fp32")


@pytest.fixture(scope="session")
def image_query(ovis_folder):
    return [{"image": str(ovis_folder / "image0.png")}, {"text": "What is it?"}]


LIMITS = {
    "single_image_min_pixels": 4096,
    "single_image_max_pixels": 16384,
    "video_min_pixels": 1024,
    "video_max_pixels": 6400,
}


@pytest.fixture(scope="session")
def small(loaded):
    """The template with few patches a visual."""
    return loaded[1].with_options(**LIMITS, num_frames=2)
