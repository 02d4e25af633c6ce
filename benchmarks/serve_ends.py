"""The other ends of what serve.py measures: servers in processes of their own, and a client."""

from __future__ import annotations

import http.client
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

ROOT = Path(__file__).resolve().parents[1]
NAME = "measured"
DRAWN = {"temperature": 50.0, "top_k": 0, "top_p": 1.0}  # random tokens, which hardly ever end an answer
HI = [{"role": "user", "content": "Hi"}]


@dataclass(frozen=True)
class Timed:
    """Seconds until the first text of an answer, and between two tokens after it; and the tokens."""

    first: float
    per_token: float
    tokens: int


class Client:
    """Asks the server at an address, each thread on a connection of its own."""

    def __init__(self, url: str):
        address = urlparse(url)
        self.host, self.port = str(address.hostname), address.port

    def ask(self, tokens: int, seed: int, **fields: Any) -> tuple[float, int]:
        """Seconds until the whole answer is there, and its tokens."""
        body = {"model": NAME, "messages": HI, "max_tokens": tokens, "seed": seed, **DRAWN, **fields}
        began = time.perf_counter()
        connection = http.client.HTTPConnection(self.host, self.port, timeout=600)
        connection.request("POST", "/v1/chat/completions", json.dumps(body), {"Content-Type": "application/json"})
        response = connection.getresponse()
        answer = json.loads(response.read())
        connection.close()
        if response.status != 200:
            raise RuntimeError(f"status {response.status}: {answer}")
        return time.perf_counter() - began, answer["usage"]["completion_tokens"]

    def stream(self, tokens: int, seed: int, messages: list[dict[str, Any]] = HI) -> Timed:
        """Ask for a stream, and read it as it comes."""
        body = {"model": NAME, "messages": messages, "max_tokens": tokens, "seed": seed, "stream": True,
                "stream_options": {"include_usage": True}, **DRAWN}  # fmt: skip
        began, first, count = time.perf_counter(), 0.0, 0
        connection = http.client.HTTPConnection(self.host, self.port, timeout=600)
        connection.request("POST", "/v1/chat/completions", json.dumps(body), {"Content-Type": "application/json"})
        response = connection.getresponse()
        if response.status != 200:
            raise RuntimeError(f"status {response.status}: {response.read()[:300]!r}")
        for line in response:
            if not line.startswith(b"data: {"):
                continue
            chunk = json.loads(line[6:])
            count = (chunk.get("usage") or {"completion_tokens": count})["completion_tokens"]
            if not first and chunk["choices"] and chunk["choices"][0]["delta"].get("content"):
                first = time.perf_counter()
        connection.close()
        return Timed(first - began, (time.perf_counter() - first) / max(count - 1, 1), count)


@contextmanager
def serving(model: Path, *settings: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """A server's address and process; it ends with the block, and with status 0."""
    command = [sys.executable, str(ROOT / "scripts/serve.py"), "--model", str(model), "--name", NAME, "--port", "0",
               *settings]  # fmt: skip
    handle, name = tempfile.mkstemp(".log", "serve_benchmark_")
    log, environment = Path(name), os.environ | {"PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=handle, text=True, env=environment)
    os.close(handle)
    try:
        assert process.stdout
        if not (url := process.stdout.readline().strip()):
            raise RuntimeError(f"the server did not start; see {log}")
        yield url, process
    finally:
        process.terminate()
        status = process.wait(60)
    if status or "Traceback" in log.read_text():
        raise RuntimeError(f"the server failed, or ended with {status}; see {log}")
    log.unlink()


@contextmanager
def serving_torch(model: Path) -> Iterator[str]:
    """The address of torch_server.py."""
    command = [sys.executable, str(ROOT / "benchmarks/torch_server.py"), str(model)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        try:
            assert process.stdout
            yield process.stdout.readline().strip()
        finally:
            process.terminate()
