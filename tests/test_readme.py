"""What both READMEs tell to type, as it stands: the Python lines, the question to the small model; and that they agree."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ENGLISH, CHINESE = "README.md", "README.zh-CN.md"
FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def blocks(page: str) -> list[tuple[str, str]]:
    """Language and text of each block of code."""
    return FENCED.findall((ROOT / page).read_text(encoding="utf-8"))


def without_comments(text: str) -> str:
    return re.sub(r" *# .*", "", text)


@pytest.fixture
def run(tmp_path):
    """Run a command in a directory that has the repository's files but not what was made there."""
    for name in ("assets", "configs", "scripts", "run_mindformer.py"):
        (tmp_path / name).symlink_to(ROOT / name)
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), "GLOG_v": "3"}

    def start(*command: str) -> str:
        ended = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600)
        assert ended.returncode == 0, ended.stdout[-2000:] + ended.stderr[-2000:]
        return ended.stdout

    return start


@pytest.mark.parametrize("page", [ENGLISH, CHINESE])
def test_the_python_lines_run(page, run, tmp_path):
    (code,) = [text for language, text in blocks(page) if language == "python"]
    assert run(sys.executable, "-c", code).endswith("green")
    assert (tmp_path / "boxed.png").stat().st_size > 0


def test_the_session_and_the_batch_of_the_interface_page_run(run, tmp_path):
    session, batch = [text for language, text in blocks("docs/interface.md") if language == "python"]
    shape, box = run(sys.executable, "-c", session).splitlines()[-2:]
    assert shape == "circle" and box.startswith("<ref>the green circle</ref><box>(")
    assert (tmp_path / "boxed.png").stat().st_size > 0
    color, shape, box = run(sys.executable, "-c", batch).splitlines()[-3:]
    assert (color, shape) == ("green", "circle") and box.startswith("<ref>the green circle</ref><box>(")


def test_the_small_model_answers_as_shown(run):
    (command,) = [text for language, text in blocks(ENGLISH) if "predict_tiny" in text]
    (shown,) = [text for _, text in blocks(ENGLISH) if text.startswith("<|im_start|>system")]
    assert run("bash", "-c", command).endswith(shown)


def test_the_chinese_readme_shows_what_the_english_one_shows():
    english, chinese = (
        [(language, without_comments(text)) for language, text in blocks(page)] for page in (ENGLISH, CHINESE)
    )
    assert english == chinese and len(english) > 8


def test_a_chinese_sentence_is_not_broken():
    """A line break inside a sentence is shown as a space, which Chinese has none of."""
    text = FENCED.sub("", (ROOT / CHINESE).read_text(encoding="utf-8"))
    broken = re.findall(r"^(?![#|\[]).*[\u4e00-\u9fff，、；]\n(?![\n|]).*", text, re.MULTILINE)
    assert not broken
