"""data: URLs with base64, of records and of requests."""

from __future__ import annotations

import base64
import binascii
import re

from ms_impl.errors import InputError, quote

_URL = re.compile(r"data:([\w.+-]+/[\w.+-]+)?((?:;[\w.+-]+=[\w.+-]+)*)(;base64)?,", re.ASCII | re.IGNORECASE)
_ANYTHING = "application/octet-stream"


def base64_of_url(url: str, kind: str, name: str) -> str:
    """The base64 of a data: URL. Raises InputError that names the medium for another kind, and for no base64."""
    found = _URL.match(url)
    if not found or not found[3]:
        raise InputError(f"{name}: expected data:{kind}/…;base64,… and base64 after it")
    mime = (found[1] or _ANYTHING).lower()
    if mime != _ANYTHING and mime.partition("/")[0] != kind:
        raise InputError(f"{name}: expected data:{kind}/…, not {quote(mime)}")
    return url[found.end() :]


def decoded(data: str, name: str) -> bytes:
    """What base64 stands for. Raises InputError that names the medium."""
    try:
        return base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError) as error:
        raise InputError(f"{name}: its base64 is damaged: {error}") from error
