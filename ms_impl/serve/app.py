"""The server's endpoints."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from fastapi import Depends, FastAPI, Request
from fastapi.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from ms_impl.serve.answers import Completion, Usage
from ms_impl.serve.bodies import Bodies
from ms_impl.serve.engine import Engine, parsed
from ms_impl.serve.exchange import Exchange, Left
from ms_impl.serve.metrics import Metrics
from ms_impl.serve.own_machine import is_local, same_secret
from ms_impl.serve.problems import DENIED, Refusal, refusal_of
from ms_impl.serve.schema import ChatRequest
from ms_impl.serve.settings import ServerSettings

logger = logging.getLogger(__name__)

CLIENT_GONE = 499


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
    app.add_exception_handler(ClientDisconnect, _left(metrics))

    @app.get("/health")
    async def health() -> Response:
        alive = all(engine.scheduler.alive for engine in engines.values())
        return JSONResponse({"status": "ok" if alive else "ending"}, 200 if alive else 503)

    @app.get("/metrics")
    async def counts() -> Response:
        schedulers = [engine.scheduler for engine in engines.values()]
        text = metrics.text(
            sum(len(each.answering) for each in schedulers), sum(each.waiting for each in schedulers),
            sum(each.pace.per_second() for each in schedulers),
        )  # fmt: skip
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
        return await Reply(request, asked, _engine(engines, asked.model), metrics).response()

    return app


class Reply:
    """A request and its answer."""

    def __init__(self, request: Request, asked: ChatRequest, engine: Engine, metrics: Metrics):
        self.request, self.asked, self.engine, self.metrics = request, asked, engine, metrics
        self.exchange = Exchange(engine, asked, whole=not asked.stream)

    async def response(self) -> Response:
        """The whole answer, or the stream of its chunks. Raises Refusal."""
        watching = asyncio.create_task(self._watch())
        try:
            _log_question(self.asked, self.engine.settings)
            await self.exchange.begin()
            if self.asked.stream:
                return StreamingResponse(self._chunks(), media_type="text/event-stream",
                                         headers={"Cache-Control": "no-cache"})  # fmt: skip
            completion = self._completion()
            async for number, piece in self.exchange.pieces():
                completion.take(number, piece)
            self._done(200)
            return JSONResponse(completion.whole(self._usage()))
        except Left:
            self._done(CLIENT_GONE)
            return Response(status_code=CLIENT_GONE)
        except asyncio.CancelledError:
            self.exchange.cancel()
            raise
        finally:
            watching.cancel()

    async def _watch(self) -> None:
        """Notice a client that goes away while it waits for a whole answer."""
        if self.asked.stream:
            return  # its response notices
        while (await self.request.receive())["type"] != "http.disconnect":
            pass
        self.exchange.leave()

    async def _chunks(self) -> AsyncIterator[str]:
        completion = self._completion()
        status = CLIENT_GONE
        try:
            yield "".join(map(_event, completion.beginning()))
            async for number, piece in self.exchange.pieces():
                if chunks := completion.add(number, piece):
                    yield "".join(map(_event, chunks))
            if self.asked.stream_options and self.asked.stream_options.include_usage:
                yield _event(completion.usage_chunk(self._usage()))
            yield "data: [DONE]\n\n"
            status = 200
        except Refusal as refusal:
            status = refusal.status
            yield _event(refusal.json())
        finally:
            self.exchange.cancel()
            self._done(status)

    def _completion(self) -> Completion:
        answering = self.exchange.answering
        assert answering
        end = self.engine.template.think_end if answering.thinks else None
        return Completion(self.engine.name, self.asked.n or 1, end, bool(self.asked.logprobs))

    def _usage(self) -> Usage:
        answering = self.exchange.answering
        assert answering
        return Usage(answering.job.length, sum(len(choice.answer.tokens) for choice in answering.job.choices))

    def _done(self, status: int) -> None:
        """Count it, and tell the log."""
        usage, now = self._usage(), time.monotonic()
        began, first = self.exchange.began, self.exchange.first
        self.metrics.answered(status, usage.prompt, usage.completion)
        if status == 200:
            self.metrics.whole.add(now - began)
            if first:
                self.metrics.first_token.add(first - began)
                if usage.completion > 1:
                    self.metrics.per_token.add((now - first) / (usage.completion - 1))
        logger.info("%s: status %d, %d tokens in, %d out, %.3f s", self.engine.name, status, usage.prompt,
                    usage.completion, now - began)  # fmt: skip


def _guard(settings: ServerSettings) -> Any:
    """What every request must bear."""

    async def guard(request: Request) -> None:
        if settings.local_hosts_only and not is_local(request.headers.get("host", "")):
            raise Refusal(421, "this server answers to names of its own machine alone", DENIED)
        if settings.api_key is None or request.url.path == "/health":
            return
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not same_secret(given.strip(), settings.api_key):
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


def _left(metrics: Metrics) -> Any:
    async def left(_: Request, error: Exception) -> Response:
        """The client went away before its request had arrived."""
        metrics.answered(CLIENT_GONE)
        return Response(status_code=CLIENT_GONE)

    return left


async def _unknown(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    said = {404: "no such page", 405: "no such method of this page"}.get(error.status_code, "a request in error")
    return Refusal(error.status_code, said).response()


async def _failed(request: Request, error: Exception) -> Response:
    return refusal_of(error).response()
