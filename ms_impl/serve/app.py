"""The server's endpoints."""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
import re
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from fastapi import Depends, FastAPI, Request
from fastapi.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.exceptions import HTTPException

from ms_impl.serve.answers import Completion, Usage
from ms_impl.serve.bodies import Bodies
from ms_impl.serve.choice import Piece
from ms_impl.serve.engine import Asked, Engine, parsed
from ms_impl.serve.metrics import Metrics
from ms_impl.serve.problems import DENIED, Refusal, refusal_of
from ms_impl.serve.schema import ChatRequest
from ms_impl.serve.settings import ServerSettings

logger = logging.getLogger(__name__)

LOCAL_HOSTS = ("localhost", "127.0.0.1", "[::1]")
CLIENT_GONE = 499
_PORT = re.compile(r":\d+$", re.ASCII)


class _Gone(Exception):
    """Nobody waits for the answer."""


def make_app(engines: Mapping[str, Engine], settings: ServerSettings) -> FastAPI:
    """The application; it ends the engines when it ends."""
    bodies, metrics = Bodies(settings.max_body), Metrics()

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        for engine in engines.values():
            await asyncio.to_thread(engine.close)

    app = FastAPI(title="vlm-mindspore", openapi_url=None, lifespan=lifespan, dependencies=[Depends(_guard(settings))])
    app.add_exception_handler(Exception, _failed)
    app.add_exception_handler(HTTPException, _unknown)
    app.add_exception_handler(Refusal, _refused(metrics))

    @app.get("/health")
    async def health() -> Response:
        alive = all(engine.scheduler.alive for engine in engines.values())
        return JSONResponse({"status": "ok" if alive else "ending"}, 200 if alive else 503)

    @app.get("/metrics")
    async def counts() -> Response:
        schedulers = [engine.scheduler for engine in engines.values()]
        text = metrics.text(sum(len(each.answering) for each in schedulers), sum(each.waiting for each in schedulers))
        return PlainTextResponse(text, media_type="text/plain; version=0.0.4")

    @app.get("/v1/models")
    async def models() -> Response:
        return JSONResponse({"object": "list", "data": [_described(engine) for engine in engines.values()]})

    @app.get("/v1/models/{name:path}")
    async def one_model(name: str) -> Response:
        return JSONResponse(_described(_engine(engines, name)))

    @app.post("/v1/chat/completions")
    async def chat(request: Request) -> Response:
        body = await bodies.read(request)
        try:
            asked = await asyncio.to_thread(parsed, body)
        finally:
            bodies.done(len(body))
        return await Exchange(request, asked, _engine(engines, asked.model), metrics).response()

    return app


class Exchange:
    """A request and its answer."""

    def __init__(self, request: Request, asked: ChatRequest, engine: Engine, metrics: Metrics):
        self.request, self.asked, self.engine, self.metrics = request, asked, engine, metrics
        self.began = time.monotonic()
        self.first: float | None = None
        self.events: asyncio.Queue[tuple[int | None, Any]] = asyncio.Queue()
        self.answering: Asked | None = None

    async def response(self) -> Response:
        """The whole answer, or the stream of its chunks. Raises Refusal."""
        watching = asyncio.create_task(self._watch())
        try:
            await self._begin()
            if self.asked.stream:
                return StreamingResponse(self._chunks(), media_type="text/event-stream",
                                         headers={"Cache-Control": "no-cache"})  # fmt: skip
            completion = self._completion()
            async for number, piece in self._pieces():
                completion.add(number, piece)
            self._done(200)
            return JSONResponse(completion.whole(self._usage()))
        except _Gone:
            self._done(CLIENT_GONE)
            return Response(status_code=CLIENT_GONE)
        except asyncio.CancelledError:
            self._cancel()
            raise
        finally:
            watching.cancel()

    async def _begin(self) -> None:
        """Have it prepared and queued."""
        loop = asyncio.get_running_loop()

        def report(number: int | None, what: Any) -> None:
            loop.call_soon_threadsafe(self.events.put_nowait, (number, what))

        _log_question(self.asked, self.engine.settings)
        try:
            future = self.engine.ask(self.asked, report)
            try:
                self.answering = await asyncio.wrap_future(future)
            except asyncio.CancelledError:
                future.add_done_callback(_cancel_prepared)
                raise
        except Exception as problem:
            raise refusal_of(problem) from problem

    async def _watch(self) -> None:
        """Notice a client that goes away while it waits for a whole answer."""
        if self.asked.stream:
            return  # its response notices
        while (await self.request.receive())["type"] != "http.disconnect":
            pass
        self.events.put_nowait((None, _Gone()))

    async def _pieces(self) -> AsyncIterator[tuple[int, Piece]]:
        """The pieces of all answers as they come. Raises Refusal, and _Gone."""
        while True:
            number, what = await self.events.get()
            if number is not None:
                self.first = self.first or time.monotonic()
                yield number, what
            elif what is None:
                return
            else:
                self._cancel()
                raise what if isinstance(what, _Gone) else refusal_of(what, begun=True)

    async def _chunks(self) -> AsyncIterator[str]:
        completion = self._completion()
        status = CLIENT_GONE
        try:
            for chunk in completion.beginning():
                yield _event(chunk)
            async for number, piece in self._pieces():
                for chunk in completion.add(number, piece):
                    yield _event(chunk)
            if self.asked.stream_options and self.asked.stream_options.include_usage:
                yield _event(completion.usage_chunk(self._usage()))
            yield "data: [DONE]\n\n"
            status = 200
        except Refusal as refusal:
            status = refusal.status
            yield _event(refusal.json())
        finally:
            self._cancel()
            self._done(status)

    def _completion(self) -> Completion:
        assert self.answering
        end = self.engine.template.think_end if self.answering.thinks else None
        return Completion(self.engine.name, self.asked.n or 1, end, bool(self.asked.logprobs))

    def _usage(self) -> Usage:
        assert self.answering
        job = self.answering.job
        return Usage(job.length, sum(len(choice.answer.tokens) for choice in job.choices))

    def _cancel(self) -> None:
        if self.answering:
            self.answering.job.cancel()

    def _done(self, status: int) -> None:
        """Count it, and tell the log."""
        usage, now = self._usage(), time.monotonic()
        self.metrics.answered(status, usage.prompt, usage.completion)
        if status == 200:
            self.metrics.whole.add(now - self.began)
            if self.first:
                self.metrics.first_token.add(self.first - self.began)
                if usage.completion > 1:
                    self.metrics.per_token.add((now - self.first) / (usage.completion - 1))
        logger.info("%s: status %d, %d tokens in, %d out, %.3f s", self.engine.name, status, usage.prompt,
                    usage.completion, now - self.began)  # fmt: skip


def _cancel_prepared(future: Any) -> None:
    if not future.cancelled() and not future.exception():
        future.result().job.cancel()


def _guard(settings: ServerSettings) -> Any:
    """What every request must bear."""

    async def guard(request: Request) -> None:
        host = _PORT.sub("", request.headers.get("host", "")).lower()
        if settings.local_hosts_only and host not in LOCAL_HOSTS:
            raise Refusal(421, "this server answers to names of its own machine alone", DENIED)
        if settings.api_key is None or request.url.path == "/health":
            return
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        right = hmac.compare_digest(given.strip().encode(), settings.api_key.encode())
        if scheme.lower() != "bearer" or not right:
            raise Refusal(401, "this server asks for its key: Authorization: Bearer …", DENIED, "invalid_api_key")

    return guard


def _engine(engines: Mapping[str, Engine], name: str) -> Engine:
    if name not in engines:
        known = ", ".join(engines)
        raise Refusal(404, f"no such model; this server has: {known}", code="model_not_found", field="model")
    return engines[name]


def _described(engine: Engine) -> dict[str, Any]:
    return {"id": engine.name, "object": "model", "created": engine.created, "owned_by": "vlm-mindspore",
            "max_model_len": engine.scheduler.columns}  # fmt: skip


def _event(content: dict[str, Any]) -> str:
    return f"data: {json.dumps(content, ensure_ascii=False)}\n\n"


def _log_question(asked: ChatRequest, settings: ServerSettings) -> None:
    """What is said, where the server was asked to log it; media are left out."""
    if not settings.log_prompts:
        return
    for message in asked.messages:
        parts = message.content if isinstance(message.content, list) else []
        text = message.content if isinstance(message.content, str) else " ".join(
            getattr(part, "text", f"[{part.type}]") for part in parts
        )  # fmt: skip
        logger.info("%s: %r", message.role, text)


def _refused(metrics: Metrics) -> Any:
    async def refused(_: Request, refusal: Refusal) -> Response:
        metrics.answered(refusal.status)
        logger.info("refused with %d%s", refusal.status, f" ({refusal.field})" if refusal.field else "")
        return refusal.response()

    return refused


async def _unknown(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    said = {404: "no such page", 405: "no such method of this page"}.get(error.status_code, "a request in error")
    return Refusal(error.status_code, said).response()


async def _failed(request: Request, error: Exception) -> Response:
    return refusal_of(error).response()
