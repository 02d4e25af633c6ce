"""Compiles the C++ kernels on first use, for the processor at hand, and keeps the library in the user's cache."""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

SOURCES = Path(__file__).parent
COMPILERS = ("c++", "g++", "clang++")
FLAGS = ("-std=c++17", "-O3", "-march=native", "-fopenmp", "-fPIC", "-shared")
SWITCH = "VLM_MINDSPORE_KERNELS"  # "off": do without
TIME_OUT = 300  # seconds; a compilation takes some ten

logger = logging.getLogger(__name__)


@cache
def library(name: str) -> Path | None:
    """The shared library compiled from ``name``.cc; None without a compiler, or where the user wants none.

    Why there is none is said once, in the log.
    """
    if os.environ.get(SWITCH) == "off":
        return None
    compiler = next(filter(None, map(shutil.which, COMPILERS)), None)
    if compiler is None:
        logger.warning("no C++ compiler (%s) was found: %s runs without its kernel, slower", ", ".join(COMPILERS), name)
        return None
    try:
        return compiled(compiler, name, cache_folder())
    except (OSError, subprocess.SubprocessError) as error:
        reason = (getattr(error, "stderr", None) or str(error)).strip().splitlines()[0]
        logger.warning("the kernel %s could not be compiled (%s): the plain path is taken, slower", name, reason)
        return None


def cache_folder() -> Path:
    """Where libraries are kept: in $XDG_CACHE_HOME or ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vlm_mindspore"


def compiled(compiler: str, name: str, folder: Path) -> Path:
    """The library in ``folder``, compiled unless it is there for these sources, this compiler and this processor.

    Of several processes or threads that want it at once, one compiles it and the others wait. It gets its name when it
    is complete, so that where the file system has no locks they do not disturb each other.

    Raises:
        OSError: the folder cannot be written.
        subprocess.SubprocessError: the compiler fails.
    """
    target = folder / f"{name}-{fingerprint(compiler)}.so"
    if not target.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with locked(folder):
            if not target.exists():
                compile_to(target, compiler, name)
    return target


def compile_to(target: Path, compiler: str, name: str) -> None:
    """Compile ``name``.cc aside, and rename the library when it is complete. Raises as ``compiled`` does."""
    with tempfile.TemporaryDirectory(dir=target.parent) as partial:
        output = Path(partial) / target.name
        run([compiler, *FLAGS, str(SOURCES / f"{name}.cc"), "-o", str(output)])
        os.replace(output, target)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Alone among those who lock the folder, where its file system has locks; a process's end releases its own."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def fingerprint(compiler: str) -> str:
    """What decides about the library's code: the sources, the flags, and the macros the compiler predefines.

    The macros tell its version, and what ``-march=native`` found of the processor.
    """
    sources = b"".join(path.read_bytes() for path in sorted((*SOURCES.glob("*.cc"), *SOURCES.glob("*.h"))))
    macros = run([compiler, *FLAGS, "-dM", "-E", "-x", "c++", os.devnull])
    return hashlib.sha256(b"\0".join((sources, " ".join(FLAGS).encode(), macros.encode()))).hexdigest()[:16]


def run(command: list[str]) -> str:
    """What the command writes on stdout."""
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=TIME_OUT).stdout
