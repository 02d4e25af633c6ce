"""Decoders that are asked for by name, and how a file is opened with them: local, of a known format, in a given time.

Nothing is fetched: a URL is refused, and so is a file that only lists other files or addresses (a playlist).
"""

from __future__ import annotations

import importlib
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ms_impl.data.tags import shorten
from ms_impl.errors import InputError

EXTRA = "vlm-mindspore[media]"
TIMEOUT = 120.0  # seconds that reading one file may take

# FFmpeg's names of containers that hold their own data.
_VIDEO = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,mpegvideo,m4v,flv,asf,ogg,gif,ivf,mxf,nut,h264,hevc"
_SOUND = "wav,w64,aiff,au,caf,mp3,aac,flac,amr,ac3,eac3,ape,wv,tta"


def called(what: str, path: str | os.PathLike) -> str:
    """How errors call a file."""
    return f"{what} '{shorten(os.fspath(path), 400)}'"


def decoder(package: str, what: str) -> Any:
    """The package that decodes ``what``. Raises InputError naming the extra to install if it is not there."""
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise InputError(f'{what} cannot be decoded without the package {package}: pip install "{EXTRA}"') from error


class Deadline:
    """The time that reading one file may take."""

    def __init__(self, name: str, seconds: float = TIMEOUT):
        self.name = name
        self.seconds = seconds
        self._end = time.monotonic() + seconds

    def check(self) -> None:
        """Raise InputError once the time is over."""
        if time.monotonic() > self._end:
            raise self.over()

    def over(self) -> InputError:
        """What to raise once the time is over."""
        return InputError(f"{self.name} takes more than {self.seconds:g} s to read; cut it, or raise media_timeout")


@contextmanager
def file_faults(deadline: Deadline) -> Iterator[None]:
    """Turn what decoders raise into an InputError that names the file."""
    name = deadline.name
    try:
        yield
    except InputError:
        raise
    except MemoryError as error:
        raise InputError(f"{name} needs more memory than there is; make it smaller") from error
    except Exception as error:  # decoders raise many kinds for one cause: the file is damaged
        if type(error).__name__ == "ExitError":  # PyAV's own end of waiting
            raise deadline.over() from error
        foreign = isinstance(error, TypeError | AttributeError | LookupError)  # of a decoder's own code
        reason = "its header is inconsistent" if foreign else getattr(error, "strerror", None) or str(error)
        raise InputError(f"{name} cannot be decoded ({shorten(reason, 160)}); it is damaged") from error


def check_file(path: str | os.PathLike, name: str) -> None:
    """Raise InputError unless ``path`` is a file with content."""
    if not os.path.isfile(path):
        raise InputError(f"{name} {'is not a file' if os.path.exists(path) else 'does not exist'}")
    if not os.path.getsize(path):
        raise InputError(f"{name} is empty: a file of 0 bytes")


@contextmanager
def opened(path: str | os.PathLike, name: str, deadline: Deadline) -> Iterator[Any]:
    """A container that PyAV has opened."""
    av = decoder("av", name)
    check_file(path, name)
    options = {"protocol_whitelist": "file", "format_whitelist": f"{_VIDEO},{_SOUND}"}
    with file_faults(deadline):
        try:
            container = av.open(f"file:{os.fspath(path)}", options=options, timeout=deadline.seconds)
        except (av.error.InvalidDataError, ValueError) as error:
            raise InputError(f"{name} is not a video or sound of a known format, or it is damaged") from error
        with container:
            yield container
