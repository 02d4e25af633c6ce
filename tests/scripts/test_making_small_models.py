"""The scripts that make the small models, from their first stage to their last, a few steps of each."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.numpy import load_file

ROOT = Path(__file__).parents[2]
MODELS = {"ovis": ("ovis2_5_tiny", "counts_half_budget"), "omni": ("qwen2_5_omni_tiny", "long_clips_without_true_time")}


@pytest.fixture
def environment(tmp_path):
    """This environment in the place of the one that scripts/env.sh would make."""
    made = tmp_path / "env"
    (made / "bin").mkdir(parents=True)
    (made / "bin/activate").touch()
    (made / ".made-for").write_text((ROOT / "pyproject.toml").read_text() + f"{ROOT}\n")
    told = {"VENV": str(made), "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    kept = {name: value for name, value in os.environ.items() if name not in ("LOG_MF_PATH", "OM_MODULES_CACHE")}
    return {**kept, **told}


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_every_stage_follows_the_one_before(name, environment, tmp_path):
    """What comes out has the tensors of the shipped model, and answers of the last stage are scored."""
    command = ["bash", f"scripts/small_models/make_{name}_model.sh", "--quick", str(tmp_path / "work")]
    made = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=3000)
    assert made.returncode == 0, made.stdout[-3000:] + made.stderr[-3000:]
    shipped, last_data_set = MODELS[name]
    weights = [
        load_file(folder / "model.safetensors") for folder in (tmp_path / "work/model", ROOT / "assets" / shipped)
    ]
    shapes = [{key: (value.shape, value.dtype) for key, value in each.items()} for each in weights]
    assert shapes[0] == shapes[1]
    assert any(line.startswith(last_data_set) for line in made.stdout.splitlines()), made.stdout[-2000:]
    again = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert again.returncode == 2 and "already exists" in again.stderr
