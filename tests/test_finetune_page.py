"""docs/finetune.md, walked from top to bottom: its commands as they stand, one after the other."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs/finetune.md"
EXAMPLES = ("/path/to/", "source scripts/env.sh")  # paths of one's own; the environment, which tests run in already
FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)

pytestmark = pytest.mark.slow  # three minutes


def commands() -> list[str]:
    """The lines of ``shell`` blocks, and those after ``$`` where output is shown; a line may go on after a backslash."""
    found: list[str] = []
    page = PAGE.read_text(encoding="utf-8").partition("## On Ascend")[0]
    for kind, text in FENCED.findall(page):
        lines = text.replace("\\\n", " ").splitlines()
        found += lines if kind == "shell" else [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]
    return [command for command in found if not any(example in command for example in EXAMPLES)]


@pytest.fixture(scope="module")
def walked(tmp_path_factory) -> Path:
    """A checkout in which all commands have run, with what each printed under ``printed``."""
    folder = tmp_path_factory.mktemp("walk")
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in {path.partition("/")[0] for path in tracked.splitlines()}:
        (folder / name).symlink_to(ROOT / name)
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), "GLOG_v": "3"}
    for name in ("LOG_MF_PATH", "OM_MODULES_CACHE"):
        environment.pop(name, None)
    (folder / "printed").mkdir()
    for number, command in enumerate(commands()):
        run = subprocess.run(
            ["bash", "-c", command], cwd=folder, env=environment, capture_output=True, text=True, timeout=600
        )
        assert run.returncode == 0, f"{command}\n{run.stdout[-3000:]}\n{run.stderr[-3000:]}"
        (folder / f"printed/{number}").write_text(f"$ {command}\n{run.stdout}")
    return folder


def printed_by(walked: Path, *words: str) -> str:
    texts = [file.read_text() for file in (walked / "printed").iterdir()]
    (found,) = [text for text in texts if all(word in text.splitlines()[0] for word in words)]
    return found


def accuracy(text: str) -> float:
    return float(re.search(r"exact_match +40 +accuracy ([\d.]+)", text)[1])


def test_the_page_has_the_commands_of_the_whole_way():
    script = "\n".join(commands())
    for word in ("easyvqa_data", "--check", "train_supervised", "plot_run", "merge_adapter", "--reverse", "chat.py"):
        assert word in script
    assert script.count("eval_tiny_easyvqa.yaml") == 2


def test_a_whole_fine_tune_is_as_good_after_conversion_and_before(walked):
    """The shipped model answers 0.93 of them; trained in ChatML and asked in another format it answers none."""
    for checkpoint in ("output/hf ", "output/full/checkpoint/step_00000002 "):
        text = printed_by(walked, "eval_tiny_easyvqa", f"--load_checkpoint {checkpoint}")
        assert accuracy(text) >= 0.9
        assert "chat format: chatml" in text


def test_the_converted_checkpoint_has_all_of_a_model_and_nothing_of_a_run(walked):
    names = {file.name for file in (walked / "output/hf").iterdir()}
    assert names == {"config.json", "generation_config.json", "qwen.tiktoken", "model.safetensors"}
    assert names < {file.name for file in (walked / "output/full/checkpoint/step_00000002").iterdir()}
    assert json.loads((walked / "output/hf/generation_config.json").read_text())["chat_format"] == "chatml"


def test_the_merged_adapter_answers_as_the_page_shows(walked):
    assert printed_by(walked, "chat.py").splitlines()[1:] == ["green"]


def test_what_the_page_shows_of_the_check_is_what_is_printed(walked):
    shown = re.search(r"--check --num_samples 1000\n(.*?\n)\n", PAGE.read_text(), re.DOTALL)[1]
    assert shown in printed_by(walked, "--check")
