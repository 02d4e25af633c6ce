"""Compiling the kernels: once, for this machine, by several processes at a time, or not at all."""

from __future__ import annotations

import ctypes
import logging
import os
import shutil
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import pytest

from ms_impl.kernels import build
from ms_impl.user_cache import cache_folder

SMALL = 'extern "C" int answer() { return 42; }\n'
needs_compiler = pytest.mark.skipif(not any(map(shutil.which, build.COMPILERS)), reason="no C++ compiler here")


@pytest.fixture
def folder(monkeypatch, tmp_path) -> Path:
    """The cache; the only kernel is ``small``."""
    sources = tmp_path / "sources"
    sources.mkdir()
    (sources / "small.cc").write_text(SMALL)
    monkeypatch.setattr(build, "SOURCES", sources)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv(build.SWITCH, raising=False)
    build.library.cache_clear()
    yield tmp_path / "cache" / "vlm_mindspore"
    build.library.cache_clear()


@needs_compiler
def test_a_library_is_compiled_once(folder):
    first = build.library("small")
    written = first.stat().st_mtime_ns
    build.library.cache_clear()
    assert build.library("small") == first and first.stat().st_mtime_ns == written
    assert list(folder.iterdir()) == [first]


@needs_compiler
def test_other_sources_and_other_flags_make_another_library(folder, monkeypatch):
    compiler = next(filter(None, map(shutil.which, build.COMPILERS)))
    first = build.fingerprint(compiler)
    (build.SOURCES / "small.h").write_text("\n")
    second = build.fingerprint(compiler)
    monkeypatch.setattr(build, "FLAGS", tuple(flag for flag in build.FLAGS if flag != "-march=native"))
    assert len({first, second, build.fingerprint(compiler)}) == 3


COUNTING = """#!/bin/sh
case "$*" in *small.cc*) echo >> "{log}"; sleep 0.2;; esac
exec {compiler} "$@"
"""


@needs_compiler
@pytest.mark.parametrize("pool", [ThreadPoolExecutor, ProcessPoolExecutor])
def test_several_at_once_compile_once(folder, tmp_path, pool):
    counting, log = tmp_path / "counting", tmp_path / "log"
    counting.write_text(COUNTING.format(log=log, compiler=next(filter(None, map(shutil.which, build.COMPILERS)))))
    counting.chmod(0o755)
    with pool(4) as workers:
        made = set(workers.map(build.compiled, [str(counting)] * 4, ["small"] * 4, [folder] * 4))
    assert len(made) == 1 and list(folder.iterdir()) == list(made)
    assert log.read_text() == "\n"


def test_without_a_compiler_there_is_none_and_the_log_says_so_once(folder, monkeypatch, caplog):
    monkeypatch.setenv("PATH", "")
    assert build.library("small") is None and build.library("small") is None
    assert len(caplog.records) == 1 and "no C++ compiler" in caplog.text


@needs_compiler
def test_sources_that_do_not_compile_are_named_with_the_reason(folder, caplog):
    (build.SOURCES / "small.cc").write_text("#error unknown processor\n")
    assert build.library("small") is None
    assert "small could not be compiled" in caplog.text and "unknown processor" in caplog.text
    assert not list(folder.iterdir())


def test_a_cache_that_cannot_be_written_is_no_error(folder, monkeypatch, caplog):
    folder.parent.write_text("a file, where a folder should be")
    assert build.library("small") is None
    assert str(folder) in caplog.text or str(folder.parent) in caplog.text


def test_switched_off_there_is_none_and_nothing_is_said(folder, monkeypatch, caplog):
    monkeypatch.setenv(build.SWITCH, "off")
    with caplog.at_level(logging.DEBUG):
        assert build.library("small") is None
    assert not caplog.records


def damaged_empty(content: bytes) -> bytes:
    return b""


def damaged_cut(content: bytes) -> bytes:
    return content[: len(content) // 2]


def damaged_flip(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


def damaged_seal(content: bytes) -> bytes:
    return content[:-1] + bytes([content[-1] ^ 1])


@needs_compiler
@pytest.mark.parametrize("damage", [damaged_empty, damaged_cut, damaged_flip, damaged_seal])
def test_a_damaged_library_is_compiled_again(folder, damage):
    path = build.library("small")
    content = path.read_bytes()
    path.rename(folder / "old")  # it is loaded in this process: another file takes its name
    path.write_bytes(damage(content))
    path.chmod(0o700)
    build.library.cache_clear()
    assert build.library("small") == path and build.whole(path)
    assert ctypes.CDLL(str(path)).answer() == 42


@needs_compiler
def test_a_directory_that_others_may_write_to_is_not_trusted(folder, caplog):
    path = build.library("small")
    for mode, trusted in ((0o777, False), (0o707, False), (0o755, True), (0o775, True), (0o700, True)):
        folder.chmod(mode)
        build.library.cache_clear()
        caplog.clear()
        assert build.library("small") == (path if trusted else None)
        assert bool(caplog.records) != trusted
        assert trusted or f"others may write to {folder}" in caplog.text


@needs_compiler
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")
def test_another_users_directory_or_library_is_not_trusted(folder, caplog):
    path = build.library("small")
    os.chown(path, 12345, -1)
    assert not build.whole(path)
    build.library.cache_clear()
    assert build.library("small") == path and path.stat().st_uid == os.geteuid()
    os.chown(folder, 12345, -1)
    build.library.cache_clear()
    assert build.library("small") is None
    assert f"{folder} is another user's (uid 12345); give a directory in XDG_CACHE_HOME" in caplog.text


COMPLAINING = """#!/bin/sh
case "$*" in *small.cc*) printf '{said}' >&2; exit 3;; esac
exec {compiler} "$@"
"""


@needs_compiler
@pytest.mark.parametrize(
    "said, reason",
    [
        (r" \n\t\n", "exit status 3"),
        ("", "exit status 3"),
        (r"\n\377\376 wrong\n", "wrong"),
        ("x" * 9000, "x" * 200 + ")"),
    ],
    ids=["blank", "nothing", "not UTF-8", "long"],
)
def test_whatever_a_compiler_says_is_no_traceback(folder, tmp_path, monkeypatch, caplog, said, reason):
    compiler = next(filter(None, map(shutil.which, build.COMPILERS)))
    (tmp_path / "bin").mkdir()
    complaining = tmp_path / "bin" / "c++"
    complaining.write_text(COMPLAINING.format(said=said, compiler=compiler))
    complaining.chmod(0o755)
    monkeypatch.setenv("PATH", f"{complaining.parent}:{os.environ['PATH']}")
    assert build.library("small") is None
    assert reason in caplog.text and len(caplog.text) < 1000


@needs_compiler
def test_a_library_that_cannot_be_loaded_is_none(folder, tmp_path, monkeypatch, caplog):
    """As on a cache without the right to execute, or beside another system library."""
    (build.SOURCES / "small.cc").write_text('extern "C" int nowhere(); extern "C" int answer() { return nowhere(); }\n')
    monkeypatch.setattr(build, "FLAGS", (*build.FLAGS, "-Wl,-z,now"))
    assert build.library("small") is None
    assert "small could not be compiled or loaded" in caplog.text and "nowhere" in caplog.text


_WITHOUT_HOME = """
import logging
logging.basicConfig()
from ms_impl.generate.graph_store import GraphStore
from ms_impl.kernels.build import library
from ms_impl.user_cache import cache_folder
print(library("resize"))
try:
    GraphStore(cache_folder("graphs")).write("a", b"graph")
    print(GraphStore(cache_folder("graphs")).read("a"))
except OSError as error:
    print(error)
"""


@pytest.mark.parametrize("home", [None, "", "relative", "/proc/none"])
def test_without_a_home(tmp_path, home):
    environment = {key: value for key, value in os.environ.items() if key not in ("HOME", "XDG_CACHE_HOME")}
    environment |= {"TMPDIR": str(tmp_path)} | ({} if home is None else {"HOME": home})
    command = [sys.executable, "-c", _WITHOUT_HOME]
    ran = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert ran.returncode == 0 and "Traceback" not in ran.stderr, ran.stderr
    library, graph = ran.stdout.splitlines()
    if home == "/proc/none":
        assert library == "None" and "/proc/none" in graph
    else:
        assert graph == "b'graph'" and (library == "None" or library.startswith(f"{tmp_path}/vlm_mindspore-"))


def test_the_cache_is_made_for_its_user_alone(folder):
    old = os.umask(0)
    try:
        graphs = cache_folder("graphs")
    finally:
        os.umask(old)
    assert graphs == folder / "graphs"
    assert [path.stat().st_mode & 0o777 for path in (folder, graphs)] == [0o700, 0o700]
    graphs.chmod(0o777)
    with pytest.raises(PermissionError, match="others may write"):
        cache_folder("graphs")
