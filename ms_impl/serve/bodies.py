"""The bodies of requests: bounded each, in time, and all together, before anything is made of them."""

from __future__ import annotations

import asyncio

from fastapi import Request

from ms_impl.serve.problems import BUSY, Refusal

SECONDS = 60.0  # for a body to arrive
LISTENED = 8  # times the largest body: so much is heard out, for who is cut off while he speaks hears no answer
AT_ONCE = 4  # times the largest body, of all that are read or prepared


class Bodies:
    """Reads bodies of up to ``largest`` bytes. Who has one gives its bytes back with ``done``."""

    def __init__(self, largest: int):
        self.largest = largest
        self.held = 0

    async def read(self, request: Request) -> bytes:
        """Raises Refusal for a body of another kind than JSON, too large, too slow, or one too many."""
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json":
            raise Refusal(415, "Content-Type must be application/json")
        body, passed = bytearray(), 0
        try:
            async with asyncio.timeout(SECONDS):
                async for part in request.stream():
                    passed += len(part)
                    if passed <= self.largest:
                        self._take(len(part))
                        body += part
                    elif passed > LISTENED * self.largest:
                        break
            if passed > self.largest:
                raise Refusal(413, f"the request has more than {self.largest:,} bytes", code="request_too_large")
        except TimeoutError:
            self.done(len(body))
            raise Refusal(408, f"the request took more than {SECONDS:g} s to arrive") from None
        except BaseException:
            self.done(len(body))
            raise
        return bytes(body)

    def done(self, count: int) -> None:
        """So many bytes are no longer held."""
        self.held -= count

    def _take(self, count: int) -> None:
        if self.held + count > AT_ONCE * self.largest:
            raise Refusal(429, "too much is being sent at once; ask again later", BUSY, "queue_full")
        self.held += count
