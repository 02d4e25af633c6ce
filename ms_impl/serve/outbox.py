"""From the scheduler's thread to event loops."""

from __future__ import annotations

import asyncio


class Outbox:
    """Wakes who waits in an event loop, once for all that came in a step.

    Each waking costs the scheduler's thread a system call, and the interpreter's lock, for which it then waits behind
    the loop.
    """

    def __init__(self) -> None:
        self._rung: dict[asyncio.AbstractEventLoop, list[asyncio.Event]] = {}

    def ring(self, loop: asyncio.AbstractEventLoop, event: asyncio.Event) -> None:
        """Have an event of a loop set at the next ``flush``."""
        self._rung.setdefault(loop, []).append(event)

    def flush(self) -> None:
        """Set them."""
        if not self._rung:
            return
        rung, self._rung = self._rung, {}
        for loop, events in rung.items():
            if not loop.is_closed():
                loop.call_soon_threadsafe(_set, events)


def _set(events: list[asyncio.Event]) -> None:
    for event in events:
        event.set()
