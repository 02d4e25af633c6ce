"""The command that asks a model about images: it answers, or says on stderr what is wrong and exits with 2."""

import json
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file

from convert.qwenvl import WEIGHTS
from ms_impl.errors import InputError
from ms_impl.io.rules import Layout
from ms_impl.qwenvl.config import QwenVLConfig, VisionConfig
from ms_impl.qwenvl.tokenizer import IMAGE_START, SPECIAL_TOKENS

CHAT = Path(__file__).parents[2] / "scripts/chat.py"
save_picture = runpy.run_path(str(CHAT))["save_picture"]
RANKS = 300


@pytest.fixture(scope="module")
def model(tmp_path_factory, vocabulary_file) -> Path:
    """A checkpoint directory with random weights and a picture a.png in it."""
    directory, generator = tmp_path_factory.mktemp("model"), np.random.default_rng(0)
    visual = VisionConfig(
        heads=2, image_size=56, image_start_id=RANKS + SPECIAL_TOKENS.index(IMAGE_START), layers=1, mlp_ratio=2.0,
        output_dim=128, patch_size=14, width=32, n_queries=16, n_positions=16,
    )  # fmt: skip
    config = QwenVLConfig(
        vocab_size=RANKS + len(SPECIAL_TOKENS), hidden_size=128, num_hidden_layers=1, num_attention_heads=2,
        kv_channels=64, intermediate_size=256, seq_length=128, max_position_embeddings=512, visual=visual,
    )  # fmt: skip
    shapes = WEIGHTS.shapes(config, Layout.HUGGING_FACE)
    weights = {name: generator.normal(scale=0.2, size=shape).astype(np.float32) for name, shape in shapes.items()}
    save_file(weights, directory / "model.safetensors", {"format": "pt"})
    (directory / "config.json").write_text(json.dumps(config.to_dict()))
    (directory / "generation_config.json").write_text('{"chat_format": "chatml"}')
    ranks = vocabulary_file.read_bytes().splitlines(keepends=True)[:RANKS]
    (directory / "qwen.tiktoken").write_bytes(b"".join(ranks))
    Image.fromarray(generator.integers(0, 256, (60, 80, 3), dtype=np.uint8)).save(directory / "a.png")
    return directory


def chat(*arguments, typed: str = "") -> subprocess.CompletedProcess:
    command = [sys.executable, CHAT, "--greedy", *map(str, arguments)]
    return subprocess.run(command, input=typed, capture_output=True, text=True, timeout=120)


def refused(*arguments) -> str:
    """What the command says on refusing; nothing may have been answered."""
    run = chat(*arguments)
    assert (run.returncode, run.stdout) == (2, ""), run.stderr
    assert "Traceback" not in run.stderr
    return run.stderr.rstrip().rpartition("\n")[2]


def test_questions_come_from_the_terminal_until_it_ends(model):
    run = chat("--model", model, "--image", model / "a.png", "--max_new_tokens", "2", typed="What?\nAnd?\n")
    assert run.returncode == 0 and run.stdout.count("> ") == 3 and "Traceback" not in run.stderr


def test_a_missing_image(model):
    message = refused("--model", model, "--image", model / "no.png", "Hi")
    assert message.startswith("error: ") and f"image '{model}/no.png' does not exist" in message


def test_a_wrong_vocabulary(model, vocabulary_file, tmp_path):
    wrong = shutil.copytree(model, tmp_path / "wrong")
    shutil.copy(vocabulary_file, wrong / "qwen.tiktoken")
    assert refused("--model", wrong, "Hi").startswith(f"error: {wrong}/qwen.tiktoken: wrong vocabulary file")


def test_an_adapter(model, tmp_path):
    shapes = {"A": (4, 128), "B": (384, 4)}
    tensors = {
        f"base_model.model.transformer.h.0.attn.c_attn.lora_{end}.weight": np.full(shape, 0.5, np.float32)
        for end, shape in shapes.items()
    }
    save_file(tensors, tmp_path / "adapter_model.safetensors")
    path = tmp_path / "adapter_config.json"
    path.write_text('{"peft_type": "LORA", "r": 4, "lora_alpha": 16, "target_modules": ["c_attn"]}')
    asked = ("--model", model, "--max_new_tokens", "6", "Hi")
    with_it, without = chat(*asked, "--adapter", tmp_path), chat(*asked)
    assert with_it.returncode == 0 and without.returncode == 0
    assert with_it.stdout != without.stdout
    path.write_text('{"peft_type": "LORA", "r": 4, "lora_alpha": null, "target_modules": ["c_attn"]}')
    assert refused(*asked, "--adapter", tmp_path) == f"error: {path}: lora_alpha is null; expected a number"


def test_a_missing_model(tmp_path):
    assert refused("--model", tmp_path / "no", "Hi") == f"error: {tmp_path}/no: no such file or directory"


@pytest.mark.parametrize("option, message", [
    (("--seed", "-1"), "--seed: -1 is below 0"),
    (("--draw", "full"), "--draw: full is a folder"),
    (("--draw", "no/x.png"), "--draw: no/x.png is in no folder that exists"),
])  # fmt: skip
def test_a_wrong_option_is_refused_before_the_model_is_read(tmp_path, monkeypatch, option, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "full").mkdir()
    (tmp_path / "full/diary.doc").write_text("dear")
    assert refused("--model", "no", *option, "Hi") == f"error: {message}"
    assert (tmp_path / "full/diary.doc").exists()


def test_a_picture_is_written_whole_or_not_at_all(tmp_path):
    save_picture(Image.new("RGB", (9, 5)), tmp_path / "boxed.png")
    assert Image.open(tmp_path / "boxed.png").size == (9, 5)
    with pytest.raises(InputError, match="boxed.png/x.png cannot be written"):
        save_picture(Image.new("RGB", (9, 5)), tmp_path / "boxed.png" / "x.png")
    assert [path.name for path in tmp_path.iterdir()] == ["boxed.png"]
