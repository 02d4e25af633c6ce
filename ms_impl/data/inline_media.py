"""Media inside a record, as base64: each becomes a file that stands in its place.

The files lie in the user's cache under names made of their bytes, so that what two records show, or one record that is
read again, is one file, whose age stays.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from ms_impl.data.data_urls import base64_of_url, decoded
from ms_impl.errors import InputError
from ms_impl.io.atomic_write import atomic_write
from ms_impl.user_cache import cache_folder

FOLDER = "media"  # of the user's cache


def file_of_url(url: str, kind: str, name: str) -> str:
    """The path of a file with what a data: URL holds. ``name`` is how errors name the medium.

    Raises InputError for a URL without base64, of another kind of media, or empty.
    """
    return file_of_base64(base64_of_url(url, kind, name), name)


def file_of_base64(data: str, name: str) -> str:
    """The path of a file with these bytes. Raises InputError for what is no base64, and for a cache that takes none."""
    content = decoded(data, name)
    if not content:
        raise InputError(f"{name}: is empty")
    try:
        path = cache_folder(FOLDER) / hashlib.sha256(content).hexdigest()
        if not _holds(path, len(content)):
            with atomic_write(path) as aside:
                aside.write_bytes(content)
    except OSError as error:
        raise InputError(f"{name}: cannot be kept as a file ({error}); save it yourself and give its path") from error
    return str(path)


def _holds(path: Path, size: int) -> bool:
    return path.is_file() and os.path.getsize(path) == size
