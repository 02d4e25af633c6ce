"""A request that is being answered, for whoever awaits it in an event loop: an HTTP response, or a page."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator
from typing import Any

from ms_impl.serve.choice import Piece
from ms_impl.serve.engine import Asked, Engine
from ms_impl.serve.problems import refusal_of
from ms_impl.serve.schema import ChatRequest


class Left(Exception):
    """Nobody waits for the answer."""


class Exchange:
    """To be made in a running event loop. ``first`` is when the first piece came, by ``time.monotonic``.

    Args:
        whole: the pieces may come all at the end.
    """

    def __init__(self, engine: Engine, asked: ChatRequest, whole: bool = False):
        self.engine, self.asked, self.whole = engine, asked, whole
        self.began = time.monotonic()
        self.first: float | None = None
        self.answering: Asked | None = None
        self._loop = asyncio.get_running_loop()
        self._arrived: deque[tuple[int | None, Any]] = deque()  # filled by the scheduler's thread
        self._awake = asyncio.Event()

    async def begin(self) -> Asked:
        """Have it prepared and queued. Raises Refusal."""
        try:
            future = self.engine.ask(self.asked, self._report)
            try:
                self.answering = await asyncio.wrap_future(future)
            except asyncio.CancelledError:
                future.add_done_callback(_cancel_prepared)
                raise
        except Exception as problem:
            raise refusal_of(problem) from problem
        return self.answering

    async def pieces(self) -> AsyncIterator[tuple[int, Piece]]:
        """The number of an answer and what came of it, until all have ended. Raises Refusal, and Left."""
        while True:
            await self._awake.wait()
            self._awake.clear()
            while self._arrived:
                number, what = self._arrived.popleft()
                if number is not None:
                    yield number, what
                elif what is None:
                    return
                else:
                    self.cancel()
                    raise what if isinstance(what, Left) else refusal_of(what, begun=True)

    def leave(self) -> None:
        """End ``pieces``, and with it the answer."""
        self._arrived.append((None, Left()))
        self._awake.set()

    def cancel(self) -> None:
        """Nobody waits for it any more."""
        if self.answering:
            self.answering.job.cancel()

    def _report(self, number: int | None, what: Any) -> None:
        """In the scheduler's thread."""
        if number is not None and self.first is None:
            self.first = time.monotonic()
        self._arrived.append((number, what))
        if number is None or not self.whole:
            self.engine.outbox.ring(self._loop, self._awake)


def _cancel_prepared(future: Any) -> None:
    if not future.cancelled() and not future.exception():
        future.result().job.cancel()
