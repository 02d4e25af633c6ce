"""The page in a process of its own, as users start it, and a browser on it."""

from __future__ import annotations

import http.client
import json
import os
from pathlib import Path
from urllib.parse import urlsplit

from running_server import ROOT, RunningCommand

IMAGES = ROOT / "docs/images"
KEEP = "VLM_SCREENSHOTS"  # set: screenshots go where the documents show them


class RunningPage(RunningCommand):
    """The page of one of the shipped models."""

    def __init__(self, directory: Path, model: str, *arguments: str, key: str = ""):
        own = ["-c", ROOT / "assets" / model, "--server-port", "0", "--max_batch", "4"]
        super().__init__(directory, "web_demo.py", *map(str, own), *arguments, VLM_API_KEY=key)

    def raw(self, method: str, path: str, body: bytes | None = None, **headers: str) -> tuple[int, dict, bytes]:
        """Status, headers and body of a request as no browser would send it."""
        connection = http.client.HTTPConnection(urlsplit(self.url).netloc, timeout=60)
        try:
            connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
            answer = connection.getresponse()
            return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
        finally:
            connection.close()

    def event(self, function: int, data: list, session: str = "a tab") -> tuple[int, bytes]:
        """Have gradio run one of the page's functions by its number; what comes of it, as a stream."""
        asked = {"data": data, "fn_index": function, "session_hash": session, "event_data": None}
        status, _, body = self.raw("POST", "/gradio_api/queue/join", json.dumps(asked).encode(),
                                   Content_Type="application/json")  # fmt: skip
        if status != 200:
            return status, body
        found = self.raw("GET", f"/gradio_api/queue/data?session_hash={session.replace(' ', '%20')}")
        return found[0], found[2]

    def connected(self) -> set[str]:
        """The addresses beyond this machine that the process has connected to."""
        lines = [line for line in self.audit.read_text().splitlines() if line.startswith("socket.connect")]
        return {line for line in lines if "127.0.0.1" not in line and "::1" not in line and "/" not in line}


def picture_place(name: str, otherwise: Path) -> Path:
    """Where the screenshot of that name goes."""
    return (IMAGES if os.environ.get(KEEP) else otherwise) / name
