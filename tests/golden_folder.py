"""Which folder of golden vectors the tests of a family prove against."""

import json
from pathlib import Path

import pytest

GOLDEN = Path(__file__).parent / "golden"
OWN_KEY = {"qwenvl": "visual", "qwen2_5_omni": "audio_config", "ovis2_5": "vit_config"}  # of config.json


def golden_folder(config: pytest.Config, family: str) -> Path:
    """That of ``--golden`` if its config.json is of this family, whose tests are skipped if it is of another; without
    ``--golden`` this repository's own."""
    given = config.getoption("--golden")
    if given is None:
        return GOLDEN / f"{family}_tiny"
    if OWN_KEY[family] not in json.loads((given / "config.json").read_text(encoding="utf-8")):
        pytest.skip(f"--golden {given} has no vectors of {family}")
    return given


def is_own(config: pytest.Config) -> bool:
    """Whether the vectors are this repository's, whose tolerances are known to hold."""
    given = config.getoption("--golden")
    return given is None or given.resolve().is_relative_to(GOLDEN)
