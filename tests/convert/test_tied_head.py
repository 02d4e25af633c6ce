"""A head that is the token embedding, used twice: stored once, whatever a checkpoint has."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

GOLDEN = Path(__file__).parents[1] / "golden/ovis2_5_tiny"
EMBEDDING, HEAD = "llm.model.embed_tokens.weight", "llm.lm_head.weight"


@pytest.fixture
def tied(tmp_path) -> Path:
    directory = tmp_path / "tied"
    directory.mkdir()
    for name in ("config.json", "model.safetensors"):
        shutil.copy(GOLDEN / name, directory)
    return directory


def store_head(directory: Path, change: float) -> None:
    tensors = load_file(directory / "model.safetensors")
    head = tensors[EMBEDDING].copy()
    head[-1, -1] += change
    save_file({**tensors, HEAD: head}, directory / "model.safetensors", metadata={"format": "pt"})


def test_it_need_not_be_stored_and_is_not_written(tied, convert_weight, tmp_path):
    for stored in (False, True):
        if stored:
            store_head(tied, 0.0)
        arguments = ("--input_path", tied, "--output_path", f"{tmp_path}/ms/")
        status, _, err = convert_weight(*arguments, model="ovis2_5")
        assert status == 0, err
        written = load_file(tmp_path / "ms/model.safetensors")
        assert HEAD not in written and np.array_equal(
            written[EMBEDDING], load_file(GOLDEN / "model.safetensors")[EMBEDDING]
        )


def test_one_that_differs_is_a_fault(tied, convert_weight, tmp_path):
    store_head(tied, 1e-3)
    status, _, err = convert_weight("--input_path", tied, "--output_path", tmp_path / "x.ckpt", model="ovis2_5")
    assert status == 2 and f"tied: {HEAD} differs from {EMBEDDING}, although the configuration ties them" in err
