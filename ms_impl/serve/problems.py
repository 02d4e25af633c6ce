"""What a request is answered with where it cannot be answered: OpenAI's error object."""

from __future__ import annotations

from typing import Any

from fastapi.responses import JSONResponse

from ms_impl.errors import InputError
from ms_impl.serve.scheduler import QueueFull, ShuttingDown, TimeLimit

INVALID, DENIED, BUSY, OURS = "invalid_request_error", "authentication_error", "rate_limit_error", "server_error"
RETRY_SECONDS = 2


class Refusal(Exception):
    """An answer with an HTTP status that is no answer."""

    def __init__(
        self, status: int, message: str, kind: str = INVALID, code: str | None = None, field: str | None = None
    ):
        super().__init__(message)
        self.status, self.message, self.kind, self.code, self.field = status, message, kind, code, field

    def json(self) -> dict[str, Any]:
        error = {"message": self.message, "type": self.kind, "param": self.field or None, "code": self.code}
        return {"error": error}

    def response(self) -> JSONResponse:
        headers = {"Retry-After": str(RETRY_SECONDS)} if self.status in (429, 503) else {}
        if self.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        return JSONResponse(self.json(), self.status, headers)


def refusal_of(problem: Exception, begun: bool = False) -> Refusal:
    """The refusal for what went wrong; ``begun``: while it was answered, where nothing is the request's fault."""
    if isinstance(problem, Refusal):
        return problem
    if isinstance(problem, InputError) and not begun:
        return Refusal(400, str(problem))
    if isinstance(problem, QueueFull):
        return Refusal(429, "as many requests wait as may; ask again later", BUSY, "queue_full")
    if isinstance(problem, TimeLimit):
        return Refusal(504, "the request took longer than it may", OURS, "time_limit")
    if isinstance(problem, ShuttingDown):
        return Refusal(503, "the server ends", OURS, "shutting_down")
    return Refusal(500, "the server failed at this request; its log tells how", OURS)
