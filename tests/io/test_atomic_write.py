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
    if sys.argv[2] == "waiting":
        print("writes", flush=True)
        input()
"""


@pytest.mark.parametrize("moment", ["writing", "swapping"])
@pytest.mark.parametrize("next_target", ["out", "another"])
def test_the_run_after_a_killed_one_tidies_up(tmp_path, moment, next_target):
    """Whatever it writes in that directory."""
    target = tmp_path / "out"
    fill(target, "directory", "old")
    killed = subprocess.run([sys.executable, "-c", KILLED, target, moment])
    assert killed.returncode == -signal.SIGKILL
    assert target.exists() == (moment == "writing")
    with atomic_write(tmp_path / next_target) as partial:
        assert content_of(target) == "old"
        fill(partial, "directory", "new")
    assert content_of(tmp_path / next_target) == "new" and set(os.listdir(tmp_path)) == {"out", next_target}


def test_what_another_process_is_writing_is_left_alone(tmp_path):
    target = tmp_path / "out"
    command = [sys.executable, "-c", KILLED, target, "waiting"]
    other = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert other.stdout.readline() == "writes\n"
    with atomic_write(target) as partial:
        fill(partial, "directory", "mine")
    assert content_of(target) == "mine"
    other.communicate("\n")
    assert other.returncode == 0 and content_of(target) == "half" and os.listdir(tmp_path) == ["out"]


@pytest.mark.parametrize("name", ["out.partial", "out.replaced", ".out.partial", ".out.x.writing"])
@pytest.mark.parametrize("kind", ["file", "directory"])
def test_files_of_others_are_never_removed(tmp_path, kind, name):
    target = tmp_path / "out"
    fill(tmp_path / name, kind, "precious")
    fill(target, "directory", "old")
    for content in ("first", "second"):
        with atomic_write(target) as partial:
            fill(partial, "directory", content)
        assert content_of(tmp_path / name) == "precious"
    with pytest.raises(OSError), atomic_write(target):
        raise OSError
    assert content_of(tmp_path / name) == "precious" and set(os.listdir(tmp_path)) == {"out", name}


def test_a_swap_that_fails_puts_the_old_one_back(tmp_path, monkeypatch):
    target = tmp_path / "out"
    fill(target, "directory", "old")

    def fail(*paths):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError), atomic_write(target) as partial:
        fill(partial, "directory", "new")
    assert content_of(target) == "old" and os.listdir(tmp_path) == ["out"]


def test_long_names_are_written_too(tmp_path):
    target = tmp_path / ("n" * 250)
    with atomic_write(target) as partial:
        partial.write_text("x")
    assert os.listdir(tmp_path) == [target.name]


BUSY = """
import sys
from pathlib import Path
from ms_impl.io.atomic_write import atomic_write
for number in range(400):
    with atomic_write(Path(sys.argv[1])) as partial:
        partial.write_text(str(number))
"""


def test_writers_of_one_directory_are_not_in_each_others_way(tmp_path):
    """As the ranks of a run are: what one has just finished with may be gone when the other looks."""
    writers = [subprocess.Popen([sys.executable, "-c", BUSY, tmp_path / name]) for name in ("a", "b", "c")]
    assert [writer.wait() for writer in writers] == [0, 0, 0]
    assert sorted(os.listdir(tmp_path)) == ["a", "b", "c"]
