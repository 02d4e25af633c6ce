"""What serve.py --soak does: clients at once for minutes, one of which misbehaves, beside a watch of the memory."""

from __future__ import annotations

import base64
import http.client
import io
import json
import random
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from harness import Row
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
CLIENTS, PIXELS, BODY = 32, 1_000_000, 1 << 20  # the last two are limits of the server
LIMITS = ("--max_batch", "8", "--max_waiting", "16", "--max_length", "512", "--max_pixels", str(PIXELS),
          "--max_body_mb", "1", "--kept_features_mb", "1", "--kept_prefixes_mb", "2")  # fmt: skip
FLAT = 1.05  # how much memory may grow after the first third
PATH = "/v1/chat/completions"
JSON = {"Content-Type": "application/json"}
Told = list[tuple[str, str | None, Any]]  # of each choice: text, why it ended, log-probabilities


def questions(model: str) -> list[dict[str, Any]]:
    """Requests of all kinds that the model takes; each has one right answer."""
    shape = Image.open(ROOT / "assets/demo.png").convert("RGB")
    images = [image_part(shape.rotate(angle)) for angle in (0, 90, 180)]
    texts = ("What shape is in the picture?", "Frame the shape in the picture.", "What color is it?")
    asked: list[dict[str, Any]] = []
    for number, image in enumerate(images):
        first = {"role": "user", "content": [image, {"type": "text", "text": texts[number]}]}
        asked.append({"messages": [first], "logprobs": True, "top_logprobs": 2})
        turns = [first, {"role": "assistant", "content": "A circle. " * 20}, {"role": "user", "content": texts[0]}]
        asked.append({"messages": turns, "stream": number == 1})
    for seed, text in enumerate(("Hi", "Is it blue?", "Tell me of it. " * 12)):
        drawn = {"temperature": 2.0, "top_p": 0.9, "seed": seed, "max_tokens": 20 + 60 * seed}
        asked.append({"messages": [{"role": "user", "content": text}], **drawn, "n": 1 + seed % 2, "logprobs": True})
        asked.append({"messages": [{"role": "user", "content": text}], **drawn, "stream": True, "stop": ["a b", "e."]})
    return [{"model": model, **each} for each in asked]


def image_part(image: Image.Image) -> dict[str, Any]:
    """An image as a part of a message."""
    content = io.BytesIO()
    image.save(content, "PNG")
    url = f"data:image/png;base64,{base64.b64encode(content.getvalue()).decode()}"
    return {"type": "image_url", "image_url": {"url": url}}


class Soak:
    """``address``: host and port of the server, ``process`` its id."""

    def __init__(self, address: tuple[str, int], process: int, model: str, seconds: float):
        self.address, self.process, self.model, self.seconds = address, process, model, seconds
        self.questions = questions(model)
        self.statuses: Counter[int] = Counter()
        self.misdeeds: Counter[str] = Counter()
        self.faults: list[str] = []
        self.right = 0
        self.memory: list[tuple[float, int]] = []

    def run(self) -> list[Row]:
        """Ask each question alone, then all at once until the time is over."""
        alone = [self.ask(body)[1] for body in self.questions]
        self.until = time.monotonic() + self.seconds
        threads = [threading.Thread(target=self._guest, args=(seed, alone)) for seed in range(CLIENTS - 1)]
        threads += [threading.Thread(target=self._rascal), threading.Thread(target=self._watch)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if [self.ask(body)[1] for body in self.questions] != alone:
            self.faults.append("afterwards answers are others")
        return self._rows()

    def ask(self, body: dict[str, Any]) -> tuple[int, Told]:
        """Status, and what the choices say."""
        connection = http.client.HTTPConnection(*self.address, timeout=300)
        connection.request("POST", PATH, json.dumps(body), JSON)
        response = connection.getresponse()
        content = response.read()
        connection.close()
        if response.status != 200:
            return response.status, []
        return 200, streamed(content) if body.get("stream") else whole(json.loads(content))

    def _guest(self, seed: int, alone: list[Told]) -> None:
        draw = random.Random(seed)
        while time.monotonic() < self.until:
            number = draw.randrange(len(self.questions))
            try:
                status, told = self.ask(self.questions[number])
            except (OSError, http.client.HTTPException, ValueError) as error:
                self.faults.append(f"question {number}: {error!r}")
                continue
            self.statuses[status] += 1
            if status == 429:
                time.sleep(1 + 2 * draw.random())  # as Retry-After asks
            elif status != 200 or told != alone[number]:
                self.faults.append(f"question {number}: status {status}, {told}")
            else:
                self.right += 1

    def _rascal(self) -> None:
        """Each of the misdeeds in turn. What it is answered with must be its own fault."""
        misdeeds = (self._half_a_body, self._leave_the_stream, self._leave_the_queue, self._huge_image, self._garbage,
                    self._too_long, self._say_nothing)  # fmt: skip
        number = 0
        while time.monotonic() < self.until:
            misdeed: Callable[[], int | None] = misdeeds[number % len(misdeeds)]
            number += 1
            try:
                status = misdeed()
            except OSError:  # it was hung up on
                status = None
            self.misdeeds[misdeed.__name__.strip("_")] += 1
            if status is not None and not 400 <= status < 500:
                self.faults.append(f"{misdeed.__name__}: status {status}")
            time.sleep(0.05)

    def _connected(self) -> socket.socket:
        return socket.create_connection(self.address, timeout=60)

    def _sent(self, body: bytes, length: int | None = None) -> socket.socket:
        """A connection on which a request was sent; ``length``: how long it says that its body is."""
        raw = self._connected()
        head = f"POST {PATH} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        raw.sendall(f"{head}Content-Length: {len(body) if length is None else length}\r\n\r\n".encode() + body)
        return raw

    @staticmethod
    def _status(raw: socket.socket) -> int | None:
        with raw:
            words = raw.recv(1000).split()
        return int(words[1]) if len(words) > 1 else None

    def _body(self, **fields: Any) -> bytes:
        said = [{"role": "user", "content": "Tell me all of it."}]
        asked = {"messages": said, "temperature": 50.0, "top_k": 0, "max_tokens": 300, "seed": 1}
        return json.dumps({"model": self.model, **asked, **fields}).encode()

    def _half_a_body(self) -> None:
        self._sent(self._body()[:40], 4000).close()

    def _leave_the_stream(self) -> None:
        with self._sent(self._body(stream=True)) as raw:
            raw.recv(1500)

    def _leave_the_queue(self) -> None:
        with self._sent(self._body()):
            time.sleep(0.2)

    def _huge_image(self) -> int | None:
        part = image_part(Image.new("1", (20_000, 20_000)))
        return self._status(self._sent(self._body(messages=[{"role": "user", "content": [part]}])))

    def _garbage(self) -> int | None:
        raw = self._sent(random.randbytes(3000))
        return self._status(raw)

    def _too_long(self) -> int | None:
        return self._status(self._sent(b'{"model": "' + b"x" * (BODY + 10)))

    def _say_nothing(self) -> None:
        with self._connected() as raw:
            raw.sendall(b"\x16\x03\x01 what is this")
            time.sleep(0.3)

    def _watch(self) -> None:
        began = time.monotonic()
        while time.monotonic() < self.until:
            self.memory.append((time.monotonic() - began, resident(self.process)))
            time.sleep(1)

    def _rows(self) -> list[Row]:
        for fault in self.faults[:20]:
            print(fault[:300])
        print(f"statuses {dict(self.statuses)}; misdeeds {dict(self.misdeeds)}")
        third = self.seconds / 3
        early = [size for at, size in self.memory if third / 2 < at < third]
        late = [size for at, size in self.memory if at > self.seconds - third / 2]
        before, after = (sum(sizes) / len(sizes) / 1e6 for sizes in (early, late))
        case, asked = f"{self.seconds / 60:g} minutes, {CLIENTS} clients", self.statuses.total()
        return [
            Row("soak, right answers", f"{case}; anchor: requests that were not refused with 429", self.right,
                asked - self.statuses[429], "answers", self.right / (asked - self.statuses[429]), "1",
                not self.faults and self.right == asked - self.statuses[429]),
            Row("soak, memory", f"{case}: the last sixth; anchor: the second", after, before, "MB", after / before,
                f"≤ {FLAT:g}", after <= FLAT * before),
            Row("soak, refused with 429", f"{case}; anchor: requests", self.statuses[429], asked, "requests",
                self.statuses[429] / asked),
        ]  # fmt: skip


def whole(answer: dict[str, Any]) -> Told:
    """What the choices of a whole answer say."""
    choices = sorted(answer["choices"], key=lambda choice: choice["index"])
    return [(each["message"]["content"], each["finish_reason"], each["logprobs"]) for each in choices]


def streamed(content: bytes) -> Told:
    """The same of a stream's chunks. Raises ValueError for one that was cut off."""
    lines = content.decode().split("\n\n")
    if lines[-2:] != ["data: [DONE]", ""]:
        raise ValueError(f"the stream ends with {lines[-2:]}")
    texts: dict[int, str] = {}
    reasons: dict[int, str] = {}
    for line in lines[:-2]:
        (choice,) = json.loads(line.removeprefix("data: "))["choices"]
        texts[choice["index"]] = texts.get(choice["index"], "") + choice["delta"].get("content", "")
        reasons[choice["index"]] = choice["finish_reason"]
    return [(texts[number], reasons[number], None) for number in sorted(texts)]


def resident(process: int) -> int:
    """Bytes of memory that a process has now."""
    line = next(line for line in Path(f"/proc/{process}/status").read_text().splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) << 10
