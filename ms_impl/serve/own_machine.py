"""Who may ask: names of this machine in a request, and the comparison of keys."""

from __future__ import annotations

import hmac
import re

LOOPBACK = ("127.0.0.1", "::1", "localhost")
_HOSTS = ("localhost", "127.0.0.1", "[::1]")
_PORT = re.compile(r":\d+$", re.ASCII)


def is_local(host: str) -> bool:
    """Whether a Host header names this machine itself, so that no page of another name can speak to it."""
    return _PORT.sub("", host).lower() in _HOSTS


def same_secret(given: str, expected: str) -> bool:
    """Whether they are equal, in a time that does not tell where they differ."""
    return hmac.compare_digest(given.encode(), expected.encode())
