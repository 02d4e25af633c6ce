"""docs/ovis2_5.md: its Python lines and commands as they stand, with the shipped model; both languages show the same."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MODEL = ROOT / "assets/ovis2_5_tiny"
FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
WALKED_ELSEWHERE = ("bash scripts/quickstart.sh", "pip install")

needs_model = pytest.mark.skipif(not MODEL.exists(), reason="the small model is not shipped yet")


def blocks(language: str = "") -> list[tuple[str, str]]:
    """Language and text of each block of code."""
    page = ROOT / f"docs/ovis2_5{language}.md"
    return FENCED.findall(page.read_text(encoding="utf-8"))


def commands() -> list[str]:
    lines = [line for kind, text in blocks() if kind == "shell" for line in text.replace("\\\n", " ").splitlines()]
    return [line for line in lines if not line.startswith(WALKED_ELSEWHERE)]


@pytest.fixture
def run(tmp_path):
    """Run a command in a directory that has the repository's files but not what was made there."""
    for name in ("assets", "configs", "convert", "scripts", "run_mindformer.py"):
        (tmp_path / name).symlink_to(ROOT / name)
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), "GLOG_v": "3"}
    for name in ("LOG_MF_PATH", "OM_MODULES_CACHE"):
        environment.pop(name, None)

    def start(*command: str) -> str:
        ended = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=900)
        assert ended.returncode == 0, f"{command}\n{ended.stdout[-2000:]}\n{ended.stderr[-2000:]}"
        return ended.stdout

    return start


def test_the_chinese_page_shows_what_the_english_one_shows():
    assert blocks() == blocks(".zh-CN") and len(blocks()) > 10


@needs_model
@pytest.mark.slow
def test_the_python_lines_run(run):
    code = "\n".join(text for kind, text in blocks() if kind == "python")
    shown = run(sys.executable, "-c", code).splitlines()
    assert shown[0] == shown[-1] == "green"


@needs_model
@pytest.mark.slow
def test_the_commands_run_one_after_the_other(run):
    """Of the thinking and the box the form is checked; how good the model is, is what eval_tiny.yaml says."""
    printed = {command: run("bash", "-c", command) for command in commands()}

    def shown_by(*words: str) -> str:
        return next(text for command, text in printed.items() if all(word in command for word in words))

    assert "<box>(" in shown_by("Locate") and "drawn: boxed.png" in shown_by("Locate")
    assert "</think>" in shown_by("--enable_thinking") and "limited time" in shown_by("--thinking_budget")
    assert "counts_half_budget" in shown_by("eval_tiny") and "green" in shown_by("predict_tiny", "color")
