"""Requests of random shape, valid or not: each has an answer below 500, of the right form, and the server lives."""

from __future__ import annotations

import json
import random
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from running_server import NAME, data_url, image_part

from ms_impl.serve import schema

SHORT, LONG = 250, 10_000
FORMS = ("application/json", "application/json; charset=utf-8", "text/plain", "")
NASTY: list[Any] = [
    None, True, 0, -1, 1, 2**31, 2**64, -(10**30), 0.5, 1e308, -0.0, "", "a", "\x00", "\u202e", "ÿ" * 300, "<|im_end|>",
    "<img>", "</img>", "<img></img>", "<img>/etc/hostname</img>", "<ref>a</ref><box>(1,2),(3,4)</box>", "<video>x</video>",
    "file:///etc/hostname", "http://127.0.0.1:1/", "data:image/png;base64,", "data:,", "%00", "../../x", [], {}, [[]],
    [None], {"type": "text"}, {"type": "text", "text": "a"}, {"role": "user"}, {"": {"": []}}, {"$ref": "#"},
]  # fmt: skip


class Requests:
    """Valid requests, and the same with some parts replaced, left out or added."""

    def __init__(self, seed: int, image: str):
        self.draw = random.Random(seed)
        self.image = image

    def valid(self) -> dict[str, Any]:
        draw = self.draw
        turns = draw.choice((1, 1, 1, 2))
        messages: list[dict[str, Any]] = [{"role": "system", "content": "Be short."}] if draw.random() < 0.2 else []
        for number in range(2 * turns - 1):
            role = ("user", "assistant")[number % 2]
            content: Any = draw.choice(("Hi", "What shape is it?", "Is it blue?"))
            if role == "user" and draw.random() < 0.2:
                content = [image_part(self.image), {"type": "text", "text": content}]
            messages.append({"role": role, "content": content})
        fields = {
            "temperature": draw.choice((0, 0.7, 2)), "top_p": draw.choice((0.5, 1)), "top_k": draw.choice((-1, 0, 5)),
            "seed": draw.randrange(100), "n": draw.choice((1, 1, 2)), "stop": draw.choice(("e", ["a", "is"])),
            "stream": draw.random() < 0.3, "logprobs": True, "repetition_penalty": 1.1, "user": "u",
        }  # fmt: skip
        kept = draw.sample(sorted(fields), draw.randrange(len(fields)))
        limit = {draw.choice(("max_tokens", "max_completion_tokens")): draw.randrange(1, 6)}
        return {"model": NAME, "messages": messages, **limit, **{name: fields[name] for name in kept}}

    def broken(self) -> Any:
        request = self.valid()
        for _ in range(self.draw.choice((1, 1, 2, 4))):
            request = self._changed(request)
        return request

    def _changed(self, value: Any, depth: int = 0) -> Any:
        draw = self.draw
        if depth and draw.random() < 0.3 or not isinstance(value, dict | list) or not value:
            return draw.choice(NASTY)
        if isinstance(value, list):
            place = draw.randrange(len(value))
            changed = value[:place] + [self._changed(value[place], depth + 1)] + value[place + 1 :]
            return changed * draw.choice((1, 1, 1, 2))
        value = dict(value)
        kind = draw.random()
        if kind < 0.15:
            del value[draw.choice(sorted(value))]
        elif kind < 0.3:
            value[draw.choice((*schema.ChatRequest.model_fields, "tools", "x", "url", "name"))] = draw.choice(NASTY)
        else:
            name = draw.choice(sorted(value))
            value[name] = self._changed(value[name], depth + 1)
        return value

    def body(self) -> bytes:
        kind = self.draw.random()
        text = json.dumps(self.valid() if kind < 0.2 else self.broken(), ensure_ascii=self.draw.random() < 0.9)
        body = text.encode("utf-8", "surrogatepass")
        if kind > 0.9:  # damaged as bytes
            place = self.draw.randrange(len(body))
            body = body[:place] + self.draw.randbytes(self.draw.randrange(3)) + body[place + self.draw.randrange(9) :]
        return body


@pytest.mark.parametrize("count", [SHORT, pytest.param(LONG, marks=pytest.mark.slow)])
def test_no_request_is_the_servers_fault(server, demo, request, count):
    first = request.config.getoption("--fuzz-seed") or 0
    requests = Requests(first, data_url(demo))
    cases = [(requests.body(), requests.draw.choice((FORMS[0],) * 20 + FORMS)) for _ in range(count)]

    def status_of(case) -> int:
        body, form = case
        status, _, answer = server.request("/v1/chat/completions", body, Content_Type=form)
        assert status in (200, 400, 404, 413, 415, 429), (status, body, answer)
        if status != 200:
            error = json.loads(answer)["error"]
            assert error["message"] and error["type"], body
            assert str(server.audit.parent) not in error["message"] and "vlm-serve-" not in error["message"], body
        elif answer.startswith(b"{"):
            assert json.loads(answer)["choices"], body
        else:
            assert answer.endswith(b"data: [DONE]\n\n") and b'"error"' not in answer, body
        return status

    with ThreadPoolExecutor(8) as pool:
        statuses = list(pool.map(status_of, cases))
    assert statuses.count(200) > 0.1 * count and statuses.count(400) > 0.3 * count
    assert server.chat("Hi")[0] == 200 and server.process.poll() is None
    assert "Traceback" not in server.log.read_text()
    assert "socket.connect" not in server.audit.read_text() and "/etc/hostname" not in server.audit.read_text()
