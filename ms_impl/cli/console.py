"""What commands print to."""

from __future__ import annotations

import io
import sys


def print_anything() -> None:
    """Let stdout and stderr take any text: what their encoding lacks (GBK, latin-1; half a surrogate) becomes ``?``.

    Called once, at the beginning of a command. A stream that is not a text file's own is left as it is.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
