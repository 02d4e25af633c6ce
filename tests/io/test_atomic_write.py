"""An output stands under its name when it is complete, and only then, whatever happens."""

import os
import signal
import subprocess
import sys

import pytest

from ms_impl.io.atomic_write import atomic_write


def fill(path, kind: str, content: str) -> None:
    if kind == "directory":
        path.mkdir()
        path = path / "inside"
    path.write_text(content)


def content_of(path) -> str:
    return (path / "inside" if path.is_dir() else path).read_text()


@pytest.mark.parametrize("kind", ["file", "directory"])
def test_output_appears_and_replaces(tmp_path, kind):
    target = tmp_path / "out"
    for content in ("first", "second"):
        with atomic_write(target) as partial:
            fill(partial, kind, content)
            assert not target.exists() or content_of(target) == "first"
        assert content_of(target) == content
        assert os.listdir(tmp_path) == ["out"]


@pytest.mark.parametrize("kind", ["file", "directory"])
@pytest.mark.parametrize("failure", [OSError, KeyboardInterrupt])
def test_a_failure_leaves_what_was_there(tmp_path, kind, failure):
    target = tmp_path / "out"
    fill(target, kind, "old")
    with pytest.raises(failure), atomic_write(target) as partial:
        fill(partial, kind, "half")
        raise failure
    assert content_of(target) == "old"
    assert os.listdir(tmp_path) == ["out"]


KILLED = """
import os, signal, sys
from pathlib import Path
from ms_impl.io import atomic_write
if sys.argv[2] == "swapping":  # after the old directory has left its place, before the new one takes it
    os.replace = lambda *paths: os.kill(os.getpid(), signal.SIGKILL)
with atomic_write.atomic_write(Path(sys.argv[1])) as partial:
    partial.mkdir()
    (partial / "inside").write_text("half")
    if sys.argv[2] == "writing":
        os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("moment", ["writing", "swapping"])
def test_the_run_after_a_killed_one_tidies_up(tmp_path, moment):
    target = tmp_path / "out"
    fill(target, "directory", "old")
    killed = subprocess.run([sys.executable, "-c", KILLED, target, moment])
    assert killed.returncode == -signal.SIGKILL
    assert len(os.listdir(tmp_path)) == 2
    with atomic_write(target) as partial:
        assert content_of(target) == "old"
        fill(partial, "directory", "new")
    assert content_of(target) == "new" and os.listdir(tmp_path) == ["out"]
