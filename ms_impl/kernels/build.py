"""Compiles the C++ kernels on first use, for the processor at hand, and keeps the library in the user's cache."""

from __future__ import annotations

import ctypes
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

from ms_impl.user_cache import cache_folder, check_own

SOURCES = Path(__file__).parent
COMPILERS = ("c++", "g++", "clang++")
FLAGS = ("-std=c++17", "-O3", "-march=native", "-ffp-contract=off", "-fopenmp", "-fPIC", "-shared")
SWITCH = "VLM_MINDSPORE_KERNELS"  # "off": do without
TIME_OUT = 300  # seconds; a compilation takes some ten
_SEAL = hashlib.sha256().digest_size
_EXCERPT = 200  # characters of what a compiler says

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
        path = compiled(compiler, name, cache_folder())
        ctypes.CDLL(str(path))  # what cannot be loaded is not there; the kernel's module gets the same library
        return path
    except (OSError, subprocess.SubprocessError) as error:
        message = "the kernel %s could not be compiled or loaded (%s): the plain path is taken, slower"
        logger.warning(message, name, reason(error))
        return None


def reason(error: OSError | subprocess.SubprocessError) -> str:
    """The first line of what a compiler says, else the error itself."""
    said = getattr(error, "stderr", None) or ""
    said = said.decode(errors="replace") if isinstance(said, bytes) else said
    ended = f"{error.cmd[0]}: exit status {error.returncode}" if hasattr(error, "returncode") else str(error)
    return (said.strip() or ended).splitlines()[0][:_EXCERPT]


def compiled(compiler: str, name: str, folder: Path) -> Path:
    """The library in ``folder``, compiled unless a whole one is there for these sources, compiler and processor.

    Of several processes or threads that want it at once, one compiles it and the others wait. It gets its name when it
    is complete, so that where the file system has no locks they do not disturb each other.

    Raises:
        OSError: the folder cannot be written.
        subprocess.SubprocessError: the compiler fails.
    """
    target = folder / f"{name}-{fingerprint(compiler)}.so"
    if not whole(target):
        folder.mkdir(parents=True, exist_ok=True)
        with locked(folder):
            if not whole(target):
                compile_to(target, compiler, name)
    return target


def whole(target: Path) -> bool:
    """Whether a library is there, this user's, and as it was written: behind its code stands the code's digest."""
    try:
        check_own(target)
        content = target.read_bytes()
    except OSError:
        return False
    code, seal = content[:-_SEAL], content[-_SEAL:]
    return hashlib.sha256(code).digest() == seal


def compile_to(target: Path, compiler: str, name: str) -> None:
    """Compile ``name``.cc aside, seal the library and rename it when it is on the disk. Raises as ``compiled`` does."""
    with tempfile.TemporaryDirectory(dir=target.parent) as partial:
        output = Path(partial) / target.name
        run([compiler, *FLAGS, str(SOURCES / f"{name}.cc"), "-o", str(output)])
        with open(output, "r+b") as file:
            file.write(hashlib.sha256(file.read()).digest())
            file.flush()
            os.fsync(file.fileno())
        output.chmod(0o700)
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
    macros = predefined(compiler, FLAGS).encode()
    return hashlib.sha256(b"\0".join((sources, " ".join(FLAGS).encode(), macros))).hexdigest()[:16]


@cache
def predefined(compiler: str, flags: tuple[str, ...]) -> str:
    """The macros that a compiler predefines with some flags; it is asked once, for all kernels."""
    return run([compiler, *flags, "-dM", "-E", "-x", "c++", os.devnull])


def run(command: list[str]) -> str:
    """What the command writes on stdout."""
    made = subprocess.run(command, check=True, capture_output=True, errors="replace", timeout=TIME_OUT)
    return made.stdout
