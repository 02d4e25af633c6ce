"""Ctrl-C that is told to Python and to nobody else.

While it runs a graph, MindSpore puts a handler of its own in the place of Python's, which ends the process by SIGTERM
(2.9, utils/signal_util.cc), and its threads leave it there at times. So SIGINT has no handler that counts: it is
blocked in every thread but for one, which waits for it and tells the main thread by SIGUSR1.
"""

from __future__ import annotations

import _thread
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from ms_impl.cli.main import INTERRUPTED

_SIGINT = {signal.SIGINT}
_TOLD_BY = signal.SIGUSR1


class Interrupts:
    """Made before numpy or MindSpore is imported: the threads that these start take over which signals are blocked.

    A Ctrl-C raises KeyboardInterrupt in the main thread as soon as that runs Python, another one before that ends the
    process at once. Where SIGINT is ignored, as under nohup, it stays so.
    """

    def __init__(self) -> None:
        self._noted: list[bool] | None = None
        self._raised = self._waits = False
        self._main = threading.get_ident()
        if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
            signal.signal(_TOLD_BY, self._interrupt)
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
        self._waits = True
        try:
            yield
        finally:
            self._waits = False

    def _watch(self) -> None:
        while True:
            signal.sigwait(_SIGINT)
            if self._noted is not None and not self._noted:
                self._noted.append(True)
            elif self._raised:
                os._exit(INTERRUPTED)
            else:
                self._raised = True
                self._tell()

    def _tell(self) -> None:
        """A real signal ends a system call, which not everything that computes goes on with.

        It is sent again until it is heard: CPython hears none between writing the prompt and waiting for a key.
        """
        if not self._waits:
            _thread.interrupt_main(_TOLD_BY)
        while self._waits and self._raised:
            signal.pthread_kill(self._main, _TOLD_BY)
            time.sleep(0.1)

    def _interrupt(self, number: int, frame: object) -> None:
        if self._raised:
            self._raised = False
            raise KeyboardInterrupt
