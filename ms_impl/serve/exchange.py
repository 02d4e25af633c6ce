"""A request that is being answered, for whoever awaits it in an event loop: an HTTP response, or a page."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

from ms_impl.serve.choice import Piece
from ms_impl.serve.engine import Asked, Engine
from ms_impl.serve.problems import refusal_of
from ms_impl.serve.schema import ChatRequest


class Left(Exception):
    """Nobody waits for the answer."""


class Exchange:
    """To be made in a running event loop. ``first`` is when the first piece came, by ``time.monotonic``."""

    def __init__(self, engine: Engine, asked: ChatRequest):
        self.engine, self.asked = engine, asked
        self.began = time.monotonic()
        self.first: float | None = None
        self.answering: Asked | None = None
        self._events: asyncio.Queue[tuple[int | None, Any]] = asyncio.Queue()

    async def begin(self) -> Asked:
        """Have it prepared and queued. Raises Refusal."""
        loop = asyncio.get_running_loop()

        def report(number: int | None, what: Any) -> None:
            loop.call_soon_threadsafe(self._events.put_nowait, (number, what))

        try:
            future = self.engine.ask(self.asked, report)
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
            number, what = await self._events.get()
            if number is not None:
                self.first = self.first or time.monotonic()
                yield number, what
            elif what is None:
                return
            else:
                self.cancel()
                raise what if isinstance(what, Left) else refusal_of(what, begun=True)

    def leave(self) -> None:
        """End ``pieces``, and with it the answer."""
        self._events.put_nowait((None, Left()))

    def cancel(self) -> None:
        """Nobody waits for it any more."""
        if self.answering:
            self.answering.job.cancel()


def _cancel_prepared(future: Any) -> None:
    if not future.cancelled() and not future.exception():
        future.result().job.cancel()
