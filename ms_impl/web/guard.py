"""Who may use the page, how much they may send, and that nothing they see makes their browser ask elsewhere."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse

from ms_impl.serve.own_machine import is_local, same_secret
from ms_impl.serve.settings import ServerSettings

Event = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Event]]
Send = Callable[[Event], Awaitable[None]]

POLICY = "; ".join([
    "default-src 'self'", "script-src 'self' 'unsafe-inline' 'unsafe-eval'", "style-src 'self' 'unsafe-inline'",
    "img-src 'self' data: blob:", "media-src 'self' data: blob:", "font-src 'self' data:", "worker-src 'self' blob:",
    "connect-src 'self' data: blob:", "object-src 'none'", "base-uri 'self'", "form-action 'self'",
    "frame-ancestors 'none'",
])  # fmt: skip
_HEADERS = {"Content-Security-Policy": POLICY, "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer"}


class Guard:
    """ASGI middleware around the page."""

    def __init__(self, app: Any, settings: ServerSettings):
        self.app, self.settings = app, settings

    async def __call__(self, scope: Event, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def told(event: Event) -> None:
            if event["type"] == "http.response.start":
                MutableHeaders(scope=event).update(_HEADERS)
            await send(event)

        refused = self._refusal(Headers(scope=scope), scope["path"])
        if refused:
            await refused(scope, receive, told)
        else:
            await self.app(scope, self._bounded(receive), told)

    def _refusal(self, headers: Headers, path: str) -> PlainTextResponse | None:
        """What is wrong with a request; None: nothing."""
        host, origin = headers.get("host", ""), headers.get("origin")
        if self.settings.local_hosts_only and not is_local(host):
            return PlainTextResponse("this page answers to names of its own machine alone", 421)
        if origin is not None and urlsplit(origin).netloc.lower() != host.lower():
            return PlainTextResponse("this page takes no requests from other pages", 403)
        if self.settings.api_key is not None and not same_secret(_password(headers), self.settings.api_key):
            ask = {"WWW-Authenticate": 'Basic realm="vlm-mindspore", charset="UTF-8"'}
            return PlainTextResponse("this page asks for its key, as the password", 401, ask)
        if "://" in path:
            return PlainTextResponse("nothing is fetched from elsewhere", 403)
        length = headers.get("content-length", "0")
        if not length.isdecimal() or int(length) > self.settings.max_body:
            return PlainTextResponse(f"more than {self.settings.max_body:,} bytes", 413)
        return None

    def _bounded(self, receive: Receive) -> Receive:
        """A body of unknown length ends at the bound, as if its sender had gone."""
        passed = 0

        async def bounded() -> Event:
            nonlocal passed
            event = await receive()
            passed += len(event.get("body", b""))
            return event if passed <= self.settings.max_body else {"type": "http.disconnect"}

        return bounded


def _password(headers: Headers) -> str:
    """That of HTTP's basic authentication; "" if there is none."""
    scheme, _, given = headers.get("authorization", "").partition(" ")
    if scheme.lower() != "basic":
        return ""
    try:
        return base64.b64decode(given, validate=True).decode().partition(":")[2]
    except (binascii.Error, ValueError):
        return ""
