"""The benchmark that docs/finetune.md names, run with one small layer on two workers."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks/zero1_memory.py"


@pytest.mark.slow
def test_divided_state_is_half_of_it():
    ended = subprocess.run([sys.executable, SCRIPT, "--layers", "1"], capture_output=True, text=True, timeout=300)
    assert ended.returncode == 0, ended.stderr
    assert "losses bit-equal" in ended.stdout
    assert re.search(r"divided / whole +0\.5", ended.stdout), ended.stdout
