"""Signals that ask a run to stop."""

from __future__ import annotations

import signal
from collections.abc import Callable

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def handle_stop_signals(handler: Callable) -> None:
    """Have ``handler(number, frame)`` called on each; those that nohup or a shell made this process ignore stay so."""
    for number in STOP_SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, handler)


class StopSignals:
    """``count`` of the stop signals that came since this was made, and the ``last`` one (0 if none did)."""

    def __init__(self):
        self.count = 0
        self.last = 0
        handle_stop_signals(self._note)

    def _note(self, number: int, frame) -> None:
        self.count += 1
        self.last = number
