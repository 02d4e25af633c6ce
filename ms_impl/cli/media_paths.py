"""Media that a command line names: files, and a video as a directory of its frames."""

from __future__ import annotations

import os
import re
from pathlib import Path

from ms_impl.data.images import resolve_path
from ms_impl.data.media_sources import AUDIO, IMAGE, VIDEO
from ms_impl.errors import InputError, quote

ENDINGS = {
    VIDEO: (".mp4", ".mkv", ".webm", ".avi", ".mov", ".m4v", ".flv", ".ts", ".mpg", ".mpeg"),
    AUDIO: (".wav", ".flac", ".mp3", ".ogg", ".opus", ".m4a", ".aac", ".amr", ".aiff"),
    IMAGE: (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif", ".jp2", ".tga", ".ico"),
}
Source = str | list[str]  # a file, or the frames of a video

_NUMBERS = re.compile(r"(\d+)")


def medium_path(kind: str, path: str) -> Source:
    """What a query takes for a path: the file, or of a video's directory its frames.

    Frames are in the order of their names, ``frame2`` before ``frame10``. Raises InputError for a URL, for what is not
    there, and for a directory that has no frames or something beside them; hidden files do not count.
    """
    file = resolve_path(path, what=kind)
    if kind == VIDEO and file.is_dir():
        return frames_in(file)
    if not file.is_file():
        raise InputError(f"{kind} {quote(path)} {'is not a file' if file.exists() else 'does not exist'}")
    return str(file)


def frames_in(directory: Path) -> list[str]:
    """The images of a directory, by name."""
    names = sorted((name for name in os.listdir(directory) if not name.startswith(".")), key=_by_number)
    if not names:
        raise InputError(f"video {quote(str(directory))} is a directory without frames; put them there as images")
    if others := [name for name in names if not name.lower().endswith(ENDINGS[IMAGE])]:
        raise InputError(
            f"video {quote(str(directory))}: {quote(others[0])} is no image; a directory that stands for a video holds "
            "its frames alone"
        )
    return [str(directory / name) for name in names]


def _by_number(name: str) -> list[tuple[int, str]]:
    """Numbers in a name count by their value."""
    return [(int(part), "") if part.isdecimal() else (0, part) for part in _NUMBERS.split(name)]
