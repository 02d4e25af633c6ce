"""The command that asks a model about images: it answers, or says on stderr what is wrong and exits with 2."""

import fcntl
import os
import pty
import re
import select
import shutil
import subprocess
import sys
import termios
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from preloaded import run_script
from safetensors.numpy import save_file
from tiny_checkpoint import first_ranks, small_qwenvl, write_checkpoint

from ms_impl import families
from ms_impl.cli.conversation import save_image
from ms_impl.data.box_drawing import enlarged
from ms_impl.errors import InputError

CHAT = Path(__file__).parents[2] / "scripts/chat.py"
RANKS = 300


@pytest.fixture(scope="module")
def model(tmp_path_factory, vocabulary_file) -> Path:
    """A checkpoint directory with random weights and a picture a.png in it."""
    generator = np.random.default_rng(0)
    directory = write_checkpoint(
        tmp_path_factory.mktemp("model"), families.get("qwenvl"), small_qwenvl(RANKS, 512), generator=generator,
        generation_config__json={"chat_format": "chatml"}, qwen__tiktoken=first_ranks(vocabulary_file, RANKS),
    )  # fmt: skip
    Image.fromarray(generator.integers(0, 256, (60, 80, 3), dtype=np.uint8)).save(directory / "a.png")
    return directory


def chat(*arguments, typed: str = "", greedy: bool = True) -> subprocess.CompletedProcess:
    return run_script(CHAT, *["--greedy"][: int(greedy)], *arguments, typed=typed)


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
    (("--draw", "full"), "--draw: full is a directory"),
    (("--draw", "no/x.png"), "--draw: no/x.png is not in a directory that exists"),
    (("--image", "https://x.org/a.png"), "image 'https://x.org/a.png' is a URL; download it yourself and give the path of the file"),
    (("--image", "s3://x/a.png"), "image 's3://x/a.png' is a URL; download it yourself and give the path of the file"),
    (("--image", "no.png"), "image 'no.png' does not exist"),
    (("--font", "no.ttf"), "font 'no.ttf' not found"),
    (("--dtype", "int8"), "--dtype: unknown dtype 'int8'; known: fp16, bf16, fp32, float16, bfloat16, float32"),
    (("--temperature", "2"), "--temperature does nothing with --greedy, which draws no token; leave one out"),
    (("--thinking_budget", "8"), "--thinking_budget does nothing without --enable_thinking; give that, too"),
    (("--max_new_tokens", "0"), "generation settings: max_new_tokens must be a whole number above 0, not 0"),
])  # fmt: skip
def test_a_wrong_option_is_refused_before_the_model_is_read(tmp_path, monkeypatch, option, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "full").mkdir()
    (tmp_path / "full/diary.doc").write_text("dear")
    assert refused("--model", "no", *option, "Hi") == f"error: {message}"
    assert (tmp_path / "full/diary.doc").exists()


def test_a_picture_is_written_whole_or_not_at_all(tmp_path):
    save_image(Image.new("RGB", (9, 5)), tmp_path / "boxed.png")
    assert Image.open(tmp_path / "boxed.png").size == (9, 5)
    with pytest.raises(InputError, match="boxed.png/x.png cannot be written"):
        save_image(Image.new("RGB", (9, 5)), tmp_path / "boxed.png" / "x.png")
    assert [path.name for path in tmp_path.iterdir()] == ["boxed.png"]


def said(run: subprocess.CompletedProcess) -> list[str]:
    """What was printed, by line, without the prompts before it."""
    assert run.returncode == 0 and "Traceback" not in run.stderr, run.stderr
    return [re.sub("^(> )*", "", line) for line in run.stdout.splitlines()]


def test_a_conversation_through_pipes(model, tmp_path):
    """A bad question or command ends nothing; /image and /reset do what they say."""
    typed = "What?\n/imag\n/image no.png\n<img>x\n" + "a b " * 600 + "\n"
    typed += f"/image '{model}/a.png'\nWhat?\n/reset\nWhat?\n/help\n"
    run = chat("--model", model, "--max_new_tokens", "4", "--draw", tmp_path / "x.png", typed=typed)
    first, no_image, shown, with_image, no_box, forgotten, again, _, *helped = said(run)
    errors = [line for line in run.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 4 and "unknown command '/imag'" in errors[0] and "'no.png' does not exist" in errors[1]
    assert "Unclosed" in errors[2] and "tokens" in errors[3]
    assert shown == "(images that go with the next question: 1 (80×60))"
    assert forgotten == "(forgotten; no image goes with the next question)"
    assert first == again != with_image
    assert no_image == "(no image to draw on)" and no_box == "(no box in the answer)"
    assert helped[0].startswith("/image PATH")


def test_a_model_that_does_not_think(model):
    message = refused("--model", model, "--enable_thinking", "Hi")
    assert message == "error: --enable_thinking: this model, qwenvl, does not think; leave it out"


def test_what_begins_with_a_path_is_a_question(model):
    run = chat("--model", model, "--max_new_tokens", "4", typed="/usr/bin is what?\n")
    assert said(run)[0] and "error" not in run.stderr


def test_system_message_and_settings_reach_the_model(model):
    plain = ("--model", model, "--max_new_tokens", "8", "What?")
    assert chat(*plain).stdout != chat(*plain, "--system", "Speak of birds.").stdout
    drawn = [chat(*plain, "--temperature", "9", "--top_p", "1", "--seed", seed, greedy=False).stdout for seed in "112"]
    assert drawn[0] == drawn[1] != drawn[2]
    assert chat(*plain, "--dtype", "float16").stdout == chat(*plain, "--dtype", "fp16").stdout


def test_a_base_model_answers_each_question_by_itself(model, tmp_path):
    base = shutil.copytree(model, tmp_path / "base")
    (base / "generation_config.json").unlink()
    run = chat("--model", base, "--max_new_tokens", "4", typed="What?\nWhat?\n")
    assert len(set(said(run)[:2])) == 1 and "no history" in run.stderr and "error" not in run.stderr
    assert "--system" in refused("--model", base, "--system", "Be brief.", "Hi")


def test_bytes_that_are_no_text_are_a_question_all_the_same(model):
    command = [sys.executable, CHAT, "--greedy", "--max_new_tokens", "2", "--model", str(model)]
    run = subprocess.run(command, input=b"\xff\xfe What?\n", capture_output=True, timeout=120)
    assert run.returncode == 0 and b"Traceback" not in run.stderr


@pytest.mark.parametrize("size", [(3, 2), (1, 5000), (448, 448), (60, 80)])
def test_a_small_image_is_enlarged_within_bounds(size):
    width, height = enlarged(Image.new("RGB", size)).size
    assert width / size[0] == height / size[1] >= 1 and width * height <= max(4 * 448 * 448 * 4, size[0] * size[1])


class Terminal:
    """The command on a terminal of its own: what is typed, and what is seen."""

    def __init__(self, *arguments):
        self.master, slave = pty.openpty()
        command = [sys.executable, str(CHAT), "--greedy", *map(str, arguments)]
        self.process = subprocess.Popen(
            command, stdin=slave, stdout=slave, stderr=slave, start_new_session=True, preexec_fn=self._control
        )
        os.close(slave)
        self.seen = ""

    @staticmethod
    def _control() -> None:
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)

    def wait_for(self, pattern: str, seconds: float = 120) -> str:
        """Everything up to what matches; it is then read."""
        deadline = time.monotonic() + seconds
        while not (match := re.search(pattern, self.seen)):
            assert time.monotonic() < deadline, self.seen
            if select.select([self.master], [], [], 0.5)[0]:
                try:
                    self.seen += os.read(self.master, 65536).decode(errors="replace")
                except OSError:
                    raise AssertionError(f"ended with {self.process.wait()}: {self.seen}") from None
        read, self.seen = self.seen[: match.end()], self.seen[match.end() :]
        return read

    def type(self, text: str) -> None:
        os.write(self.master, text.encode())


@pytest.fixture
def terminal():
    opened = []

    def start(*arguments) -> Terminal:
        opened.append(Terminal(*arguments))
        return opened[-1]

    yield start
    for each in opened:
        each.process.kill()
        each.process.wait()
        os.close(each.master)


def test_arrow_keys_edit_the_line(model, terminal):
    shell = terminal("--model", model, "--max_new_tokens", "2")
    shell.wait_for("> ")
    shell.type("/hlp\x1b[D\x1b[De\r")
    assert "unknown" not in shell.wait_for(r"/reset .*\n(.*\n)*> ")
    shell.type("\x1b[A\r")  # the line before
    shell.wait_for(r"/reset .*\n(.*\n)*> ")
    shell.type("\x04")
    assert shell.process.wait(30) == 0


def test_the_command_starts_without_what_starts_threads():
    """A thread from before Ctrl-C is taken over would get it."""
    code = (
        f"import sys, runpy; runpy.run_path({str(CHAT)!r}); print({{'numpy', 'PIL', 'mindspore'}} & set(sys.modules))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=CHAT.parents[1])
    assert run.stdout == "set()\n", run.stderr


@pytest.mark.parametrize("begun", [True, False])
def test_ctrl_c_ends_the_answer_and_not_the_command(model, terminal, begun):
    shell = terminal("--model", model, "--max_new_tokens", "430")
    shell.wait_for("> ")
    shell.type("Hi\r")
    shell.wait_for(r"Hi\r?\n")
    if begun:
        shell.wait_for(r"[^\x1b\s]{3} ?[^\x1b\s]{3}")
    else:
        time.sleep(0.03)  # the question is being encoded, or the first graph compiled
    shell.type("\x03")
    shell.wait_for(r" …\r?\n(\x1b\S*)?> ")
    shell.type("/help\r")
    shell.wait_for(r"/reset .*\n(.*\n)*> ")
    shell.type("\x03")
    assert shell.process.wait(30) == 130
