"""A training process that is asked to stop: it goes on to the end of the step, where it can save."""

from __future__ import annotations

import os
import signal

from ms_impl.launch.die_with_parent import is_bound
from ms_impl.launch.signals import handle_stop_signals

_requested = False


def install() -> None:
    """From now on SIGTERM, SIGINT (Ctrl-C) and SIGHUP are only noted. Call it from the main thread.

    A second one ends the process, unless it is bound to a launcher. That one counts for itself, and what stops a whole
    control group or job may well signal each of its processes, the launcher too, which passes it on.
    """
    handle_stop_signals(_note)


def stop_requested() -> bool:
    """Whether this process was asked to stop. Others of the same run may not have been: ask them all."""
    return _requested


def _note(number: int, frame) -> None:
    global _requested
    _requested = True
    if not is_bound():
        handle_stop_signals(signal.SIG_DFL)
    os.write(2, f"\n{signal.Signals(number).name}: stopping at the end of this step.\n".encode())
