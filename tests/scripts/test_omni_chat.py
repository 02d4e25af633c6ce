"""scripts/chat.py with a model that takes images, videos and audios: each is seen or heard, in the order given."""

import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ms_impl.cli.conversation import help_text

CHAT = Path(__file__).parents[2] / "scripts/chat.py"
SMALL = ("--options", "video_min_pixels=1", "video_max_pixels=3136", "fps=1")


def chat(*arguments, typed: str = "") -> subprocess.CompletedProcess:
    command = [sys.executable, CHAT, "--greedy", *map(str, arguments)]
    return subprocess.run(command, input=typed, capture_output=True, text=True, timeout=240)


def refused(*arguments) -> str:
    run = chat(*arguments)
    assert (run.returncode, run.stdout) == (2, "") and "Traceback" not in run.stderr, run.stderr
    return run.stderr.rstrip().rpartition("\n")[2]


def test_a_conversation_about_media(tiny_omni, tmp_path):
    """Each medium changes the answer; the timeline of the last clip is drawn; errors end nothing."""
    drawn = tmp_path / "x.png"
    told = ("--model", tiny_omni / "model", "--max_new_tokens", "4", *SMALL, "--draw", drawn)
    asked = [f"/image {tiny_omni}/image.png", f"/video {tiny_omni}/clip.mp4", f"/audio {tiny_omni}/sound.wav"]
    typed = "What?\n" + "".join(f"/reset\n{line}\nWhat?\n" for line in asked)
    typed += f"/reset\n/audio {tiny_omni}/image.png\nWhat?\n/reset\n/video no.mp4\n"
    run = chat(*told, typed=typed)
    assert run.returncode == 0 and "Traceback" not in run.stderr, run.stderr
    lines = [line.removeprefix("> ") for line in run.stdout.splitlines()]
    kinds = {kind: f"({kind}s that go with the next question: 1 ({what}))" for kind, what in
             (("image", "84×56"), ("video", "clip.mp4"), ("audio", "sound.wav"))}  # fmt: skip
    answers = [lines[0], *(lines[lines.index(kinds[kind]) + 1] for kind in kinds)]
    assert len(set(answers)) == 4
    assert lines.count(f"drawn: {drawn}") == 2 and "(no image, video or audio to draw on)" in lines
    assert "template: video_min_pixels 1, video_max_pixels 3136, fps 1" in run.stderr
    errors = [line for line in run.stderr.splitlines() if line.startswith("error: ")]
    assert (
        len(errors) == 2
        and "image.png' is not a video or sound" in errors[0]
        and "'no.mp4' does not exist" in errors[1]
    )
    assert np.asarray(Image.open(drawn)).shape[1] == 1120


def test_media_stand_in_the_order_of_the_command_line(monkeypatch):
    parse = runpy.run_path(str(CHAT))["parse_arguments"]
    monkeypatch.setattr(
        sys, "argv", ["chat.py", "--model", "m", *["--audio", "a", "--image", "b", "--audio", "c", "--video", "d"]]
    )
    assert parse().media == [("audio", "a"), ("image", "b"), ("audio", "c"), ("video", "d")]


@pytest.mark.parametrize("option, message", [
    (("--video", "https://x.org/a.mp4"), "video 'https://x.org/a.mp4' is a URL; download it yourself and give the path of the file"),
    (("--audio", "no.wav"), "audio 'no.wav' does not exist"),
    (("--audio", "."), "audio '.' is not a file"),
    (("--options", "fps"), "--options: expected KEY=VALUE, found 'fps'"),
])  # fmt: skip
def test_a_wrong_medium_is_refused_before_the_model_is_read(option, message):
    assert refused("--model", "no", *option, "--", "Hi") == f"error: {message}"


def test_media_that_a_model_does_not_take(tiny, tiny_omni):
    message = refused("--model", tiny, "--audio", tiny_omni / "sound.wav", "Hi")
    assert message.endswith("this model, qwenvl, takes images only; leave it out")


def test_the_help_of_each_family():
    assert help_text(("image",)).startswith("/image PATH   show an image with the next question\n/reset        ")
    assert [line.split()[0] for line in help_text(("video", "audio")).splitlines()[:2]] == ["/video", "/audio"]
