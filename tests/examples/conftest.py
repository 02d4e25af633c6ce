"""The family of examples/custom_register, and the commands as a user types them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from preloaded import own_environment, run_script

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples/custom_register"


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A directory with a random checkpoint (``model``), two images, and four conversations, every other with an image."""
    place = tmp_path_factory.mktemp("custom")
    subprocess.run([sys.executable, EXAMPLE / "my_vlm.py", place / "model"], check=True, env=_environment())
    rng = np.random.default_rng(0)
    for number in range(2):
        Image.fromarray(rng.integers(0, 255, (40, 50, 3), dtype=np.uint8)).save(place / f"{number}.png")
    (place / "conversations.json").write_text(json.dumps([_record(number) for number in range(4)]))
    return place


@pytest.fixture(scope="module")
def run(place):
    """Run one of the project's scripts with the example's file in that directory; returns the finished process."""

    def run(script: str, *arguments, custom: bool = True) -> subprocess.CompletedProcess:
        given = ["--custom_register_path", EXAMPLE / "my_vlm.py"] if custom else []
        return run_script(ROOT / script, *given, *arguments, folder=place)

    return run


@pytest.fixture(scope="module")
def launch(place):
    """The same under msrun, with two workers."""

    def launch(script: str, *arguments) -> subprocess.CompletedProcess:
        words = [ROOT / script, "--custom_register_path", EXAMPLE / "my_vlm.py", *arguments, "--use_parallel", "True"]
        command = [
            "bash",
            ROOT / "scripts/msrun_launcher.sh",
            " ".join(map(str, words)),
            "2",
            "8233",
            "logs",
            "True",
            "60",
        ]
        return subprocess.run(
            list(map(str, command)), cwd=place, env=_environment(), capture_output=True, text=True, timeout=300
        )

    return launch


def _environment() -> dict[str, str]:
    return {**own_environment(), "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}


def _record(number: int) -> dict:
    """Answers differ in length, and every other conversation has no image."""
    image = number % 2 == 0
    turns = [("user", f"{'<image>' if image else ''}What?"), ("assistant", "yes" * (number + 1))]
    messages = [{"role": role, "content": text} for role, text in turns]
    return {"id": number, "messages": messages} | ({"images": [f"{number // 2}.png"]} if image else {})
