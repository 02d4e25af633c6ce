"""The media of a request, as files in a directory of its own, bounded before they are decoded."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import unquote

from ms_impl.data import image_cost
from ms_impl.data.data_urls import base64_of_url, decoded
from ms_impl.data.media_sources import AUDIO, IMAGE, VIDEO
from ms_impl.errors import InputError, quote
from ms_impl.serve.settings import MediaLimits


class RequestMedia:
    """Keeps what a request shows under names such as ``image1``, in a directory that the caller removes.

    Args:
        directory: where the files are put.
        takes: the kinds that the model takes.
        allowed: file:// URLs may name files below this directory; None: none.
        room: bytes that files named by file:// URLs may have together; what a request itself holds is bounded with it.
    """

    def __init__(
        self, directory: Path, takes: Sequence[str], allowed: Path | None, limits: MediaLimits, room: int
    ):  # fmt: skip
        self.directory = directory
        self.names: list[str] = []
        self._allowed = None if allowed is None else Path(os.path.realpath(allowed))
        self._takes = takes
        self._limits = limits
        self._room = room
        self._counts = {IMAGE: 0, VIDEO: 0, AUDIO: 0}

    def add(self, kind: str, url: str, place: str) -> str:
        """The name of the medium of a URL. Raises InputError that names the ``place`` in the request."""
        file = self._place(kind, place)
        if url[:5].lower() == "data:":
            self._write(file, decoded(base64_of_url(url, kind, place), place))
        elif url[:7].lower() == "file://":
            os.symlink(self._allowed_file(url, place), file)
        else:
            raise InputError(f"{place}: expected a data: URL with base64, not {quote(url)}; nothing is fetched")
        return self._checked(kind, file, place)

    def add_base64(self, kind: str, data: str, place: str) -> str:
        """The name of a medium that is given as base64."""
        file = self._place(kind, place)
        self._write(file, decoded(data, place))
        return self._checked(kind, file, place)

    def _place(self, kind: str, place: str) -> Path:
        if kind not in self._takes:
            known = " and ".join(f"{each}s" for each in self._takes) or "text"
            raise InputError(f"{place}: this model takes {known} only, no {kind}")
        self._counts[kind] += 1
        clips = self._counts[VIDEO] + self._counts[AUDIO]
        if self._counts[IMAGE] > self._limits.images:
            raise InputError(f"{place}: more than {self._limits.images} images in a request")
        if clips > self._limits.clips:
            raise InputError(f"{place}: more than {self._limits.clips} videos and sounds in a request")
        name = f"{kind}{self._counts[kind]}"
        self.names.append(name)
        return self.directory / name

    @staticmethod
    def _write(file: Path, content: bytes) -> None:
        if not content:
            raise InputError(f"{file.name} is empty")
        file.write_bytes(content)

    def _allowed_file(self, url: str, place: str) -> str:
        """The file that a URL names, links resolved. One message for all faults: it tells nothing of what there is."""
        refused = InputError(f"{place}: a file:// URL must name a file below the directory that this server allows")
        host, slash, path = url[len("file://") :].partition("/")
        if self._allowed is None or host not in ("", "localhost"):
            raise refused
        try:
            found = Path(os.path.realpath(unquote(slash + path, errors="strict"), strict=True))
            status = os.stat(found)
        except (OSError, ValueError):
            raise refused from None
        if not found.is_relative_to(self._allowed) or not stat.S_ISREG(status.st_mode):
            raise refused
        self._room -= status.st_size
        if self._room < 0:
            raise InputError(f"{place}: the files of this request are larger than this server takes")
        return str(found)

    def _checked(self, kind: str, file: Path, place: str) -> str:
        try:
            {IMAGE: self._check_image, VIDEO: self._check_video, AUDIO: self._check_sound}[kind](file)
        except InputError as error:
            raise InputError(f"{place}: {error}") from error
        return file.name

    def _check_image(self, file: Path) -> None:
        with image_cost.opened(file) as image:
            self._check_size(*image.size)

    def _check_video(self, file: Path) -> None:
        from ms_impl.media.video import probe_video

        info = probe_video(file)
        self._check_size(info.width, info.height)
        if info.frames > self._limits.frames:
            raise InputError(f"{info.frames:,} frames are more than the {self._limits.frames:,} of this server")
        self._check_seconds(float(info.duration))

    def _check_sound(self, file: Path) -> None:
        from ms_impl.media.mel import RATE
        from ms_impl.media.sound import probe_sound

        self._check_seconds(probe_sound(file).samples / RATE)

    def _check_size(self, width: int, height: int) -> None:
        if width * height > self._limits.pixels:
            raise InputError(f"{width}×{height} pixels are more than the {self._limits.pixels:,} of this server")

    def _check_seconds(self, seconds: float) -> None:
        if seconds > self._limits.seconds:
            raise InputError(f"{seconds:.1f} s are more than the {self._limits.seconds:g} of this server")
