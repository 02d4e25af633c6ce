"""What a server has done, as Prometheus reads it."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable
from threading import Lock

FIRST_TOKEN = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
PER_TOKEN = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1)
WHOLE = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)


class Histogram:
    """Counts of seconds by upper bounds."""

    def __init__(self, name: str, what: str, bounds: Iterable[float]):
        self.name, self.what, self.bounds = name, what, tuple(bounds)
        self._counts = [0] * (len(self.bounds) + 1)
        self._sum = 0.0

    def add(self, seconds: float) -> None:
        self._counts[sum(seconds > bound for bound in self.bounds)] += 1
        self._sum += seconds

    def lines(self) -> list[str]:
        lines, total = [f"# HELP {self.name} {self.what}", f"# TYPE {self.name} histogram"], 0
        for bound, count in zip((*map(str, self.bounds), "+Inf"), self._counts):
            total += count
            lines.append(f'{self.name}_bucket{{le="{bound}"}} {total}')
        return [*lines, f"{self.name}_sum {self._sum:.6f}", f"{self.name}_count {total}"]


class Pace:
    """How many a second, of the last whole seconds. Counted in one thread, asked for in any."""

    SECONDS = 10

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        self._clock = clock
        self._counts = [(-1, 0)] * (self.SECONDS + 2)  # a second and its count, in turn

    def add(self, count: int) -> None:
        """So many now."""
        now = int(self._clock())
        place = now % len(self._counts)
        second, before = self._counts[place]
        self._counts[place] = now, count + (before if second == now else 0)

    def per_second(self) -> float:
        """Their mean over the last ``SECONDS`` whole ones."""
        now = int(self._clock())
        return sum(count for second, count in self._counts if now - self.SECONDS <= second < now) / self.SECONDS


class Metrics:
    """Requests by status, tokens, and times."""

    def __init__(self) -> None:
        self.first_token = Histogram("vlm_time_to_first_token_seconds", "until the first token", FIRST_TOKEN)
        self.per_token = Histogram("vlm_time_per_output_token_seconds", "between tokens of an answer", PER_TOKEN)
        self.whole = Histogram("vlm_request_seconds", "until the end of the answers", WHOLE)
        self._requests: Counter[int] = Counter()
        self._tokens: Counter[str] = Counter()
        self._lock = Lock()

    def answered(self, status: int, prompt: int = 0, generated: int = 0) -> None:
        """Count a request by its HTTP status (499: its client went away), and its tokens."""
        with self._lock:
            self._requests[status] += 1
            self._tokens["prompt"] += prompt
            self._tokens["generated"] += generated

    def text(self, running: int, waiting: int, pace: float) -> str:
        """All of it; ``running`` answers, ``waiting`` requests and the ``pace`` of now are told by who knows them."""
        lines = ["# HELP vlm_requests_total requests by status", "# TYPE vlm_requests_total counter"]
        lines += [f'vlm_requests_total{{status="{status}"}} {n}' for status, n in sorted(self._requests.items())]
        for kind in ("prompt", "generated"):
            name = f"vlm_{kind}_tokens_total"
            lines += [f"# HELP {name} tokens of answered requests", f"# TYPE {name} counter",
                      f"{name} {self._tokens[kind]}"]  # fmt: skip
        gauges = (("running", "answers that are growing", running),
                  ("waiting", "requests that are prepared or wait", waiting),
                  ("generated_tokens_per_second", f"of the last {Pace.SECONDS} seconds", pace))  # fmt: skip
        for name, what, value in gauges:
            lines += [f"# HELP vlm_{name} {what}", f"# TYPE vlm_{name} gauge", f"vlm_{name} {value}"]
        for histogram in (self.first_token, self.per_token, self.whole):
            lines += histogram.lines()
        return "\n".join(lines) + "\n"
