"""The mean of two checkpoints, and what is no such pair."""

import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

sys.path.append(str(Path(__file__).parents[2] / "scripts/small_models"))
from average_weights import average

from ms_impl.errors import InputError


def checkpoint(directory: Path, dtype: type, **tensors: list[float]) -> Path:
    directory.mkdir()
    (directory / "config.json").write_text("{}")
    save_file({name: np.array(value, dtype) for name, value in tensors.items()}, directory / "model.safetensors")
    return directory


def test_the_mean_is_like_the_second(tmp_path):
    before, after = checkpoint(tmp_path / "a", np.float32, w=[1, 2]), checkpoint(tmp_path / "b", np.float16, w=[2, 4])
    average(before, after, tmp_path / "mean")
    (mean,) = load_file(tmp_path / "mean/model.safetensors").values()
    assert mean.tolist() == [1.5, 3] and mean.dtype == np.float16 and (tmp_path / "mean/config.json").is_file()


def test_two_models_have_no_mean(tmp_path):
    with pytest.raises(InputError, match="are not of one model"):
        average(
            checkpoint(tmp_path / "a", np.float32, w=[1]), checkpoint(tmp_path / "b", np.float32, v=[1]), tmp_path / "c"
        )
    assert not (tmp_path / "c").exists()
