"""Compiling the kernels: once, for this machine, by several processes at a time, or not at all."""

from __future__ import annotations

import logging
import shutil
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import pytest

from ms_impl.kernels import build

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
