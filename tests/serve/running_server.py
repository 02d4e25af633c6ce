"""A server in a process of its own, as users start it, and the requests that tests send it."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

ROOT = Path(__file__).parents[2]
TINY = ROOT / "assets/qwenvl_tiny_easyvqa"
DEMO = ROOT / "assets/demo.png"
NAME = "tiny"
KEY = "a key"


class RunningCommand:
    """A command that prints its address. Every file that it opens and every address it connects to is in ``audit``."""

    def __init__(self, directory: Path, script: str, *arguments: str, **environment: str):
        self.audit, self.log = directory / "audit", directory / "log"
        hook = directory / "sitecustomize.py"  # Python imports it first
        hook.write_text(
            "import sys\n"
            f"_log = open({str(self.audit)!r}, 'a', buffering=1, errors='replace')\n"
            "def hook(event, arguments):\n"
            "    if event in ('open', 'socket.connect', 'os.listdir'):\n"
            "        print(event, arguments[-1] if event == 'socket.connect' else arguments[0], file=_log)\n"
            "sys.addaudithook(hook)\n"
        )
        paths = {"PYTHONPATH": f"{directory}{os.pathsep}{ROOT}", "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            [sys.executable, str(ROOT / "scripts" / script), *map(str, arguments)],
            env=os.environ | paths | environment,
            stdout=subprocess.PIPE,
            stderr=self.log.open("w"),
            text=True,
        )
        self.url = self.process.stdout.readline().strip()
        assert self.url, self.log.read_text()

    def end(self) -> int:
        """Tell it to end; its exit status."""
        self.process.terminate()
        return self.process.wait(60)


class RunningServer(RunningCommand):
    """``url`` ends in /v1."""

    def __init__(self, directory: Path, *arguments: str, key: str | None = KEY, model: Path = TINY):
        self.key = key
        own = ["--model", model, "--name", NAME, "--port", "0"]
        super().__init__(directory, "serve.py", *own, *arguments, VLM_API_KEY=key or "")

    def request(self, path: str, body: bytes | dict | None = None, **headers: str) -> tuple[int, dict, bytes]:
        """Status, headers and body of a raw request; POST if there is a ``body``."""
        data = json.dumps(body).encode() if isinstance(body, dict) else body
        told = {"Content-Type": "application/json", "Authorization": f"Bearer {self.key}"} | {
            name.replace("_", "-"): value for name, value in headers.items()
        }
        asked = urllib.request.Request(self.url.removesuffix("/v1") + path, data, told)
        try:
            with urllib.request.urlopen(asked, timeout=300) as response:
                return response.status, dict(response.headers), response.read()
        except urllib.error.HTTPError as error:
            return error.code, dict(error.headers), error.read()

    def chat(self, content, **fields) -> tuple[int, dict]:
        """Status and parsed answer of one question."""
        messages = [{"role": "user", "content": content}]
        status, _, body = self.request("/v1/chat/completions", {"model": NAME, "messages": messages, **fields})
        return status, json.loads(body)

    def metric(self, name: str) -> float:
        lines = self.request("/metrics")[2].decode().splitlines()
        return next((float(line.split()[-1]) for line in lines if line.startswith(f"{name} ")), 0.0)


def data_url(file: Path, kind: str = "image/png") -> str:
    return f"data:{kind};base64,{base64.b64encode(file.read_bytes()).decode()}"


def image_part(url: str) -> dict:
    return {"type": "image_url", "image_url": {"url": url}}
