"""Ctrl-C that is told to Python and to nobody else.

While it runs a graph, MindSpore puts a handler of its own in the place of Python's, which ends the process by SIGTERM
(2.9, utils/signal_util.cc). So SIGINT is blocked in all threads but one, which waits for it.
"""

from __future__ import annotations

import _thread
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from ms_impl.cli.main import INTERRUPTED

_SIGINT = {signal.SIGINT}


class Interrupts:
    """Made before numpy or MindSpore is imported: the threads that these start take over which signals are blocked.

    A Ctrl-C raises KeyboardInterrupt in the main thread as soon as that runs Python, another one before that ends the
    process at once. Where SIGINT is ignored, as under nohup, it stays so.
    """

    def __init__(self) -> None:
        self._noted: list[bool] | None = None
        self._raised = False
        self._active = signal.getsignal(signal.SIGINT) is not signal.SIG_IGN
        if self._active:
            signal.signal(signal.SIGINT, self._interrupt)
            signal.pthread_sigmask(signal.SIG_BLOCK, _SIGINT)
            threading.Thread(target=self._watch, name="Ctrl-C", daemon=True).start()

    @contextmanager
    def noted(self) -> Iterator[list[bool]]:
        """Within, the first Ctrl-C is noted in the list in place of what it does else."""
        self._noted = []
        try:
            yield self._noted
        finally:
            self._noted = None

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Within, it interrupts what waits for input."""
        if not self._active:
            yield
            return
        signal.signal(signal.SIGINT, self._interrupt)  # once more: MindSpore does not always put Python's back
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGINT)
        try:
            yield
        finally:
            signal.pthread_sigmask(signal.SIG_BLOCK, _SIGINT)

    def _watch(self) -> None:
        while True:
            signal.sigwait(_SIGINT)
            if self._noted is not None and not self._noted:
                self._noted.append(True)
            elif self._raised:
                os._exit(INTERRUPTED)
            else:
                self._raised = True
                _thread.interrupt_main()

    def _interrupt(self, number: int, frame: object) -> None:
        self._raised = False
        raise KeyboardInterrupt
