"""The folders that a run can go on from."""

import hashlib
import json
import os
import signal
import subprocess
import sys

import pytest

from ms_impl.errors import InputError
from ms_impl.train import checkpoints


def write(content: bytes):
    return lambda folder: (folder / "weights").write_bytes(content)


def save(root, step, content=b"w" * 1000, keep=3):
    return checkpoints.save(root, step, [write(content)], {"seed": 5}, keep)


def test_what_was_saved_is_found_and_read(tmp_path):
    folder = save(tmp_path / "checkpoint", 7)
    assert folder.name == "step_00000007" and checkpoints.newest(tmp_path / "checkpoint") == folder
    assert checkpoints.read_state(folder) == {"step": 7, "seed": 5}
    assert (folder / "weights").read_bytes() == b"w" * 1000


def test_only_the_newest_are_kept(tmp_path):
    for step in (7, 14, 21, 100_000_000):
        save(tmp_path, step, keep=2)
    assert [path.name for path in checkpoints.all_of(tmp_path)] == ["step_100000000", "step_00000021"]


def test_a_later_one_that_was_passed_over_costs_no_new_one_its_place(tmp_path):
    save(tmp_path, 7)
    later = save(tmp_path, 21)
    (later / "weights").unlink()
    new = save(tmp_path, 14, keep=1)
    assert checkpoints.newest(tmp_path) == new
    assert [path.name for path in checkpoints.all_of(tmp_path)] == ["step_00000021", "step_00000014"]


def test_nothing_saved_yet_is_no_error(tmp_path):
    assert checkpoints.newest(tmp_path / "checkpoint") is None


@pytest.mark.parametrize("damage", ["flip", "cut", "missing", "no manifest", "manifest no JSON"])
def test_a_damaged_checkpoint_is_named_and_passed_over(tmp_path, caplog, damage):
    whole, damaged = save(tmp_path, 7), save(tmp_path, 14)
    file = damaged / ("manifest.json" if "manifest" in damage else "weights")
    if damage in ("missing", "no manifest"):
        file.unlink()
    else:
        content = file.read_bytes()
        file.write_bytes(content[:-1] if damage == "cut" else content[:-1] + b"x" if damage == "flip" else b"{")
    with pytest.raises(InputError, match=str(file)):
        checkpoints.verify(damaged)
    assert checkpoints.newest(tmp_path) == whole
    assert str(file) in caplog.text


HASH = "0" * 64
MANIFESTS = {
    "empty": lambda sums: {},
    "not all weights": lambda sums: {"state.json": sums["state.json"]},
    "a list as checksum": lambda sums: {**sums, "weights.safetensors": [HASH]},
    "a number as checksum": lambda sums: {**sums, "weights.safetensors": 10**30},
    "a name too long": lambda sums: {**sums, "n" * 5000: HASH},
    "a name with NUL": lambda sums: {**sums, "a\0b": HASH},
    "a path": lambda sums: {**sums, "../7": HASH},
    "a directory": lambda sums: {**sums, ".": HASH},
}


@pytest.mark.parametrize("damage", [*MANIFESTS, "deep", "digits", "directory", "no step"])
def test_a_damaged_manifest_or_state_is_skipped(tmp_path, caplog, damage):
    """By resuming as by asking for the checkpoint by name: an InputError, never another exception."""
    whole, damaged = (
        checkpoints.save(tmp_path, step, [lambda folder: (folder / "weights.safetensors").touch()], {}, 3)
        for step in (7, 14)
    )
    manifest = damaged / "manifest.json"
    sums = json.loads(manifest.read_text())
    if damage in MANIFESTS:
        manifest.write_text(json.dumps(MANIFESTS[damage](sums)))
    elif damage == "directory":
        manifest.unlink()
        manifest.mkdir()
    elif damage == "no step":
        (damaged / "state.json").write_text("{}")
        digest = hashlib.sha256(b"{}").hexdigest()
        manifest.write_text(json.dumps({**sums, "state.json": digest}))
    else:
        manifest.write_text("[" * 100_000 if damage == "deep" else '{"weights.safetensors": ' + "9" * 5000 + "}")
    with pytest.raises(InputError, match="damaged"):
        checkpoints.verify(damaged)
    assert checkpoints.newest(tmp_path) == whole
    assert str(damaged) in caplog.text and "skipped" in caplog.text


def test_a_file_put_beside_a_checkpoint_does_no_harm(tmp_path):
    folder = save(tmp_path, 7)
    (folder / "generation_config.json").write_text("{}")
    assert checkpoints.newest(tmp_path) == folder


def test_what_a_kill_leaves_behind_is_not_a_checkpoint(tmp_path):
    """Killed while it writes, a run leaves a directory of another name; while it rotates, one without manifest."""
    whole = save(tmp_path, 7)
    killed = f"""
import os, signal
from pathlib import Path
from ms_impl.train import checkpoints
checkpoints.save(Path({str(tmp_path)!r}), 14, [lambda folder: os.kill(os.getpid(), signal.SIGKILL)], {{}}, 3)
"""
    assert subprocess.run([sys.executable, "-c", killed]).returncode == -signal.SIGKILL
    half_removed = save(tmp_path, 21)
    (half_removed / "manifest.json").unlink()
    assert checkpoints.newest(tmp_path) == whole
    again = save(tmp_path, 14, b"new")
    assert checkpoints.newest(tmp_path) == again
    assert {path.name for path in tmp_path.iterdir()} == {whole.name, again.name, half_removed.name}


def test_a_writer_that_fails_leaves_the_old_one(tmp_path):
    old = save(tmp_path, 7)

    def fail(folder):
        (folder / "weights").write_bytes(b"half")
        raise OSError(5, os.strerror(5))

    with pytest.raises(InputError, match="step_00000014: cannot be written .*resume from: .*step_00000007"):
        checkpoints.save(tmp_path, 14, [fail], {}, 3)
    assert [path.name for path in tmp_path.iterdir()] == [old.name]
    checkpoints.verify(old)


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 100 kB."""
    mount = ["mount", "-t", "tmpfs", "-o", "size=100k", "none", str(tmp_path / "disk")]
    (tmp_path / "disk").mkdir()
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting a file system is not permitted here")
    yield tmp_path / "disk"
    subprocess.run(["umount", str(tmp_path / "disk")], check=True)


def test_a_full_disk_leaves_the_old_checkpoint_and_says_so(small_disk):
    old = save(small_disk, 7)
    with pytest.raises(InputError, match="no space is left on the disk.*resume from: .*step_00000007"):
        save(small_disk, 14, b"w" * 200_000)
    assert [path.name for path in small_disk.iterdir()] == [old.name]
    checkpoints.verify(old)
