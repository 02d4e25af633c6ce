"""A wheel is built, and works without the checkout: its YAMLs, launcher and small model come along."""

import importlib.util
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
import venv
import zipfile
from pathlib import Path

import pytest
from PIL import Image, ImageDraw

ROOT = Path(__file__).parents[1]
QUESTION = "what color is the shape?"


def run(command: list, folder: Path, **environment: str) -> str:
    """Run a command in a folder that is not the checkout; returns its output, fails with all of it."""
    cleaned = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    ended = subprocess.run(
        list(map(str, command)),
        cwd=folder,
        env={**cleaned, "GLOG_v": "3", **environment},
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, f"{command}\n{ended.stdout[-3000:]}\n{ended.stderr[-3000:]}"
    return ended.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """Built from a copy of what is tracked, so that no leftover of the checkout gets in."""
    source, target = tmp_path_factory.mktemp("source") / "tree", tmp_path_factory.mktemp("wheel")
    names = subprocess.run(["git", "ls-files", "-z", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True).stdout
    for name in filter(None, names.decode().split("\0")):
        if not name.startswith("tests/") and (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, source / name)
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", target]
    run([*pip, source], target)
    (built,) = target.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def image(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("image") / "red.png"
    canvas = Image.new("RGB", (64, 64), "white")
    ImageDraw.Draw(canvas).rectangle((18, 20, 42, 44), fill=(255, 0, 0))
    canvas.save(path)
    return path


def test_what_a_wheel_holds(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    for wanted in (
        "ms_impl/py.typed", "ms_impl/kernels/decode_step.cc", "ms_impl/web/page.css",
        "ms_impl/plugin/register/qwenvl_model.py",
        "ms_impl/repository/configs/qwenvl/predict_tiny.yaml", "ms_impl/repository/scripts/msrun_launcher.sh",
        "ms_impl/repository/assets/qwenvl_tiny_easyvqa/model.safetensors", "ms_impl/repository/run_mindformer.py",
        "ms_impl/repository/scripts/examples.txt", "ms_impl/repository/assets/demo.jsonl",
    ):  # fmt: skip
        assert wanted in names, wanted
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert not [name for name in names if name.startswith("tests/") or name.endswith(".pyc")]


def ask(python: Path | str, image: Path, folder: Path, **environment: str) -> None:
    """The quickstart's question, and a prompt through MindFormers' command line, by the installed command."""
    start = [python, "-m", "ms_impl.cli.vlm_mindspore"]
    (root,) = [
        line.split()[-1] for line in run([*start, "info"], folder, **environment).splitlines() if "files" in line
    ]
    assert root.endswith("ms_impl/repository") and not Path(root).is_relative_to(ROOT)
    model = f"{root}/assets/qwenvl_tiny_easyvqa"
    answer = run([*start, "chat", "--model", model, "--image", image, "--greedy", QUESTION], folder, **environment)
    assert answer.split() == ["red"]
    checked = run([*start, "launch", "--help"], folder, **environment)
    assert "WORKER_NUM" in checked


def test_an_unpacked_wheel_answers(wheel, image, tmp_path):
    unpacked = tmp_path / "unpacked"
    zipfile.ZipFile(wheel).extractall(unpacked)
    ask(sys.executable, image, tmp_path, PYTHONPATH=str(unpacked))


@pytest.mark.slow
def test_every_example_works_as_it_stands(wheel, tmp_path):
    """In the directory that ``info`` names, one after the other; the server answers and ends in order."""
    zipfile.ZipFile(wheel).extractall(tmp_path)
    files = tmp_path / "ms_impl/repository"
    told = {"PYTHONPATH": str(tmp_path), "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    lines = (files / "scripts/examples.txt").read_text().splitlines()
    printed = {}
    for line in lines[:-2]:
        words = shlex.split(line)[1:]
        printed[" ".join(words[:2])] = run([sys.executable, "-m", "ms_impl.cli.vlm_mindspore", *words], files, **told)
    assert printed["info assets/ovis2_5_tiny"].startswith("checkpoint    assets/ovis2_5_tiny")
    assert printed["chat --model"].split() == ["green"] and "green<|im_end|>" in printed["predict --config"]
    assert re.search(r"demo +exact_match +4 +accuracy 0.[5-9]|accuracy 1.0", printed["eval --config"])
    assert re.search(r"step +1/1 ", printed["finetune --config"])
    for made in ("trained/completed.json", "tuned.png", "lora/checkpoint-1-merged",
                 "merged/model.safetensors", "two/completed.json", "supervised/completed.json"):  # fmt: skip
        assert (files / "build" / made).exists(), made
    assert (files / "ovis_ms.ckpt").exists()
    serve(shlex.split(lines[-2])[1:], files, {**os.environ, **told}, "health")
    page = shlex.split(lines[-1])[1:]
    if importlib.util.find_spec("gradio"):
        serve(page, files, {**os.environ, **told}, "")
    else:  # as among the tests' extras
        start = [sys.executable, "-m", "ms_impl.cli.vlm_mindspore", *page]
        refused = subprocess.run(start, cwd=files, env={**os.environ, **told}, capture_output=True, text=True)
        assert refused.returncode == 2 and 'pip install "vlm-mindspore[web]"' in refused.stderr


def serve(words: list[str], folder: Path, environment: dict[str, str], path: str) -> None:
    """Start the example of a server on a free port, ask whether it is there, end it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "ms_impl.cli.vlm_mindspore", *words, "--port", str(port)]
    server = subprocess.Popen(command, cwd=folder, env=environment)
    try:
        for _ in range(240):
            time.sleep(1)
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/{path}", timeout=10) as answer:
                    assert answer.status == 200
                break
            except OSError:
                assert server.poll() is None
        server.send_signal(signal.SIGTERM)
        assert server.wait(60) == 0
    finally:
        server.kill()


@pytest.mark.slow
def test_a_wheel_in_an_empty_environment_answers(wheel, image, tmp_path):
    venv.create(tmp_path / "env", with_pip=True)
    python = tmp_path / "env/bin/python"
    run([python, "-m", "pip", "install", "--quiet", wheel], tmp_path)
    ask(python, image, tmp_path)
    command = tmp_path / "env/bin/vlm-mindspore"
    path = f"{command.parent}:{os.environ['PATH']}"
    predicted = run(
        [command, "predict", "--config", "configs/qwenvl/predict_tiny.yaml", "--predict_data", image, QUESTION,
         "--modal_type", "image", "text"],
        tmp_path, PATH=path,
    )  # fmt: skip
    assert "red<|im_end|>" in predicted
