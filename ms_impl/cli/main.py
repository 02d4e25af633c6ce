"""What every command does at its top: errors become a short message and an exit status, on any terminal.

==========  ==========================================================================================
status      meaning
==========  ==========================================================================================
0           done
1           something failed that another attempt may mend: a device, a connection, memory
2           a mistake in what was given, or anything else that another attempt would meet again
130         Ctrl-C
141         nobody reads the output any more (``… | head``)
==========  ==========================================================================================
"""

from __future__ import annotations

import errno
import functools
import os
import select
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path

from ms_impl.cli.console import print_anything
from ms_impl.errors import InputError

MISTAKE, MAY_PASS, INTERRUPTED, NO_READER = 2, 1, 130, 141

_LONGEST = 300  # characters of a foreign message that are shown
_MEETS_AGAIN = (
    TypeError, ValueError, LookupError, AttributeError, NameError, ImportError, NotImplementedError, ArithmeticError,
    AssertionError, RecursionError, SyntaxError,
)  # fmt: skip
_PASSING = {errno.EIO, errno.ESTALE, errno.EAGAIN, errno.EBUSY, errno.ENOMEM, errno.ENETDOWN, errno.ENETUNREACH}

_reports: Path | None = None


def command(main: Callable[..., int | None]) -> Callable[..., int]:
    """``main`` as a command: returns its exit status, or that of the exception it raised, of which a message is shown.

    What is neither InputError nor OSError is a fault of the program or of a library: its traceback goes into a file,
    whose path is in the message. argparse's SystemExit passes. The text of a KeyboardInterrupt is shown.
    """

    @functools.wraps(main)
    def run(*arguments, **keywords) -> int:
        print_anything()
        try:
            status = main(*arguments, **keywords) or 0
            sys.stdout.flush()
        except Exception as error:
            return _status_of(error)
        except KeyboardInterrupt as interrupt:
            _say(str(interrupt) or "interrupted")
            return INTERRUPTED
        return status

    return run


def save_reports_in(folder: Path) -> None:
    """Where this process writes the traceback of an error that is not expected; else a temporary directory."""
    global _reports
    _reports = folder


def _status_of(error: Exception) -> int:
    if isinstance(error, BrokenPipeError) and _output_is_closed():
        return NO_READER
    if isinstance(error, InputError):
        _say(f"error: {error}")
        return MISTAKE
    if isinstance(error, OSError) and error.strerror:
        where = f"{error.filename}: " if error.filename is not None else ""
        _say(f"error: {where}{error.strerror}")
        passing = isinstance(error, ConnectionError | TimeoutError) or error.errno in _PASSING
        return MAY_PASS if passing else MISTAKE
    first, *_ = str(error).strip().splitlines() or [""]
    text = f"{type(error).__name__}: {first}" if first else type(error).__name__
    shown = text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"
    _say(f"error: {shown}\n{_saved_report(error)}")
    return MISTAKE if isinstance(error, _MEETS_AGAIN) else MAY_PASS


def _saved_report(error: Exception) -> str:
    """Write the traceback; says where it is, or is the traceback itself where nothing can be written."""
    text = "".join(traceback.format_exception(error))
    text = f"{time.strftime('%Y-%m-%d %H:%M:%S')}  {' '.join(sys.argv)}\n\n{text}"
    for folder in filter(None, (_reports, Path(tempfile.gettempdir()))):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            number, name = tempfile.mkstemp(".txt", f"error_{time.strftime('%Y%m%d_%H%M%S')}_", folder)
            with os.fdopen(number, "w", encoding="utf-8", errors="replace") as file:
                file.write(text)
        except OSError:
            continue
        return f"The whole report is in {name}"
    return text


def _output_is_closed() -> bool:
    """Whether it is stdout that has no reader. It is then replaced, for Python flushes it once more at its end."""
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)
    if not any(event & select.POLLERR for _, event in poll.poll(0)):
        return False
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return True


def _say(text: str) -> None:
    try:
        print(text, file=sys.stderr, flush=True)
    except OSError:
        pass  # nobody reads it
