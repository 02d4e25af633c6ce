"""The one reader of JSON: bounded before anything is built, and strict about what would be misread later."""

from __future__ import annotations

import errno
import json
import math
import os
import re
import stat
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from ms_impl.errors import InputError, quote

MAX_BYTES = 32 << 20  # of a file; the largest index of shards has some 10 MB
MAX_DEPTH = 64  # of nesting
_MAX_DIGITS = 32  # of a number without a fraction

_STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+"?', re.DOTALL)
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
_TYPES = {dict: "table", list: "list", str: "text", type(None): "null", bool: "truth value", int: "number",
          float: "number"}  # fmt: skip


def read_json(path: str | Path, max_bytes: int = MAX_BYTES, max_depth: int = MAX_DEPTH) -> dict[str, Any]:
    """A JSON file whose content is a table.

    Raises:
        InputError: see ``parse_json``; or it is not a file, or cannot be read.
    """
    return parse_json(read_bytes(path, max_bytes), str(path), max_depth)


def parse_json(
    data: str | bytes, where: str, max_depth: int = MAX_DEPTH, expected: type = dict, finite: bool = True
) -> Any:
    """Parsed JSON of the type ``expected``. ``where`` names the source in messages.

    Raises:
        InputError: it is not UTF-8, not JSON, or something else than expected; nested deeper than ``max_depth``; a key
            stands twice with different values; a number has very many digits or (where ``finite``) is not finite; a
            text is not Unicode (a lone surrogate), so that it could not be written again.
    """
    raw = data.encode("utf-8", "surrogatepass") if isinstance(data, str) else data
    _check_depth(raw, max_depth, where)
    reader = _Reader(where, finite)
    try:
        content = json.loads(
            raw.decode("utf-8-sig"),
            object_pairs_hook=reader.table,
            parse_int=reader.integer,
            parse_float=reader.real,
            parse_constant=reader.constant,
        )
    except UnicodeDecodeError as error:
        raise InputError(f"{where}: not UTF-8 ({error.reason} at byte {error.start})") from error
    except json.JSONDecodeError as error:
        raise InputError(f"{where}: line {error.lineno}: not JSON ({error.msg})") from error
    if not isinstance(content, expected):
        raise InputError(f"{where}: holds a {_TYPES[type(content)]} instead of a {_TYPES[expected]}")
    if _SURROGATE.search(raw):
        _check_unicode(content, where)
    return content


def read_bytes(path: str | Path, max_bytes: int = MAX_BYTES) -> bytes:
    """The content of a small file. Raises InputError for what is not a file, too large, or cannot be read."""
    try:
        with open(path, "rb", opener=_open_without_waiting) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise InputError(f"{path}: not a file, but a {_kind(status.st_mode)}")
            data = file.read(max_bytes + 1)
    except (OSError, ValueError) as error:  # ValueError: a NUL character in the name
        if isinstance(error, InputError):
            raise
        raise unreadable(path, error) from error
    if len(data) > max_bytes:
        raise InputError(f"{path}: larger than the {max_bytes:,} bytes that are read of such a file")
    return data


def check_file(path: str | Path) -> None:
    """Raise InputError unless ``path`` leads to a file: not to a directory, a pipe or a device."""
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError) as error:
        raise unreadable(path, error) from error
    if not stat.S_ISREG(mode):
        raise InputError(f"{path}: not a file, but a {_kind(mode)}")


def unreadable(path: str | Path, error: OSError | ValueError) -> InputError:
    """What to raise where opening ``path`` failed."""
    if isinstance(error, OSError):
        if error.errno == errno.ENOENT:
            return InputError(f"{_shown(path)}: no such file or directory")
        if error.errno == errno.ELOOP:
            return InputError(f"{_shown(path)}: its links lead in a circle")
        return InputError(f"{_shown(path)}: cannot be read ({error.strerror or error})")
    return InputError(f"{_shown(path)}: not a file name ({error})")


def _shown(path: str | Path) -> str:
    text = str(path)
    return text if len(text) <= 500 and text.isprintable() else quote(text)


def _open_without_waiting(path: str, flags: int) -> int:
    """A pipe would wait for a writer."""
    return os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC)


def _kind(mode: int) -> str:
    if stat.S_ISDIR(mode):
        return "directory"
    return "pipe" if stat.S_ISFIFO(mode) else "socket" if stat.S_ISSOCK(mode) else "device"


def _check_depth(raw: bytes, max_depth: int, where: str) -> None:
    """Before it is parsed: the parser goes down by recursion."""
    if raw.count(b"[") + raw.count(b"{") <= max_depth:
        return
    marks = np.frombuffer(_STRING.sub(b"", raw), np.uint8)
    steps = np.isin(marks, (ord("["), ord("{"))).astype(np.int8) - np.isin(marks, (ord("]"), ord("}")))
    if steps.size and int(np.cumsum(steps, dtype=np.int32).max()) > max_depth:
        raise InputError(f"{where}: nested deeper than {max_depth} levels")


def _check_unicode(content: Any, where: str) -> None:
    try:
        json.dumps(content, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        text = error.object[max(error.start - 20, 0) : error.start + 20]
        raise InputError(f"{where}: holds half a surrogate pair, which is not text, at {quote(text)}") from error


class _Reader:
    """The parser's choices, which name the source where they refuse."""

    def __init__(self, where: str, finite: bool):
        self._where = where
        self._finite = finite

    def table(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        content = dict(pairs)
        if len(content) < len(pairs):
            for key, value in pairs:
                if not _same(content[key], value):
                    raise InputError(f"{self._where}: the key {quote(key)} stands twice, with different values")
        return content

    def integer(self, digits: str) -> int:
        if len(digits) > _MAX_DIGITS:
            self._refuse(f"a number of {len(digits):,} digits")
        return int(digits)

    def real(self, digits: str) -> float:
        value = float(digits)
        if not math.isfinite(value):
            self._refuse(f"{digits if len(digits) <= _MAX_DIGITS else 'a number'}, which is too large for any float")
        return value

    def constant(self, name: str) -> float:
        if self._finite:
            self._refuse(f"{name}, which is not a number")
        return float(name)

    def _refuse(self, what: str) -> NoReturn:
        raise InputError(f"{self._where}: holds {what}")


def _same(one: Any, other: Any) -> bool:
    return type(one) is type(other) and one == other
