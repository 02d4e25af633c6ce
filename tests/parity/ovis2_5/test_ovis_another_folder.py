"""The suite reads every size from the folder, and passes on one of other sizes and larger weights."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from make_ovis_golden import make

ROOT = Path(__file__).parents[3]


@pytest.mark.slow
def test_another_folder_passes(tmp_path):
    folder = tmp_path / "vectors"
    make(folder, scale=1.5, seed=1)
    chosen = "not fp16 and not pynative"
    command = [sys.executable, "-m", "pytest", "-q", "tests/parity/ovis2_5", "tests/ovis2_5", "--golden", str(folder)]
    ran = subprocess.run([*command, "-k", chosen], cwd=ROOT, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout[-3000:]
    assert " passed" in ran.stdout
