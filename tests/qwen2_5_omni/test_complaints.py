"""What users of the original complain of, each with the test that it does not happen here; docs/qwen2_5_omni.md lists them.

Those that no other file tests are tested here.
"""

import ast
import re
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from clips import write_clip
from omni_arrays import conversation

from ms_impl.generate.chat_session import ChatSession

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/qwen2_5_omni.md"


@pytest.mark.parametrize("page", [PAGE, PAGE.with_suffix(".zh-CN.md")])
def test_every_complaint_has_a_test_that_is_there(page):
    listed = re.findall(r"`(tests/[\w/]+\.py)::(test_\w+)`", page.read_text(encoding="utf-8"))
    assert len(listed) >= 24
    functions = {
        file: {
            node.name for node in ast.walk(ast.parse((ROOT / file).read_text())) if isinstance(node, ast.FunctionDef)
        }
        for file, _ in listed
    }
    assert not [f"{file}::{name}" for file, name in listed if name not in functions[file]]


@pytest.fixture(scope="module")
def chats(tiny_omni):
    """Conversations with one model: a function that asks about clips, one after another, in a session of its own."""
    from ms_impl import load

    model, template = load(tiny_omni / "model")
    template = template.with_options(video_min_pixels=1, video_max_pixels=3136, fps=1.0, use_audio_in_video=True)

    def ask(*names: str, pieces: list | None = None) -> list[str]:
        session = ChatSession(model, template, max_new_tokens=6)
        return [
            session.ask(
                [{"video": str(tiny_omni / name)}, {"text": "What?"}], None if pieces is None else pieces.append
            )
            for name in names
        ]

    return ask


def test_a_second_answer_after_another_video(chats):
    """Nothing of an earlier request's positions is kept: neither in the model nor in a session."""
    alone, both = chats("silent.mp4"), chats("clip.mp4", "silent.mp4")
    assert chats("silent.mp4") == alone and both[0] != alone[0]
    assert chats("clip.mp4", "silent.mp4") == both


def test_a_streamed_answer_is_the_answer(chats):
    pieces: list[str] = []
    (answer,) = chats("clip.mp4", pieces=pieces)
    assert "".join(pieces) == answer


def test_a_clip_of_4k(make_template, tmp_path):
    """Its frames are read one at a time, and shown within the limit of pixels."""
    path = write_clip(tmp_path / "4k.mp4", frames=8, rate=2, size=(2160, 3840), sound=False, options={"crf": "40"})
    sample = make_template(fps=2.0).sample(conversation(videos=[str(path)]))
    (medium,) = sample.media
    height, width = medium.source.size
    assert height * width <= 602_112 and abs(width / height - 16 / 9) < 0.06
    tracemalloc.start()
    shapes = {pair.shape for pair in medium.source.grids()}
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert shapes == {(2, height, width, 3)}
    assert peak < 8 * np.prod((2160, 3840, 3))  # as uint8; all eight in float32 would be four times that
