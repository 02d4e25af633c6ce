"""What the server makes of a model: tokens a second at 1, 4 and 16 clients, short answers beside long ones, overhead.

    OMP_NUM_THREADS=2 python benchmarks/serve.py [--quick] [--model DIR]

A server in a process of its own, and clients in threads of this one. Anchors are the same requests sent one at a time,
and model.chat in this process; each in the same run. Every answer has the same length, drawn from random tokens.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

os.environ.setdefault("OMP_NUM_THREADS", str(len(os.sched_getaffinity(0))))

import numpy as np
from harness import Row, arguments, report
from safetensors.numpy import save_file

from ms_impl import families, load
from ms_impl.io.rules import HUGGING_FACE

ROOT = Path(__file__).resolve().parents[1]
SHIPPED = ROOT / "assets/qwenvl_tiny_easyvqa"
WIDER = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 6, "kv_channels": 128,
         "intermediate_size": 4096}  # fmt: skip
NAME, CLIENTS = "measured", 16
DRAWN = {"temperature": 50.0, "top_k": 0, "top_p": 1.0}  # random tokens, which hardly ever end an answer
THROUGHPUT, BESIDE_LONG, OVERHEAD = 4.0, 2.0, 10.0  # the goals: times, times, milliseconds
FINISHED_EARLY = 0.5  # of the tokens asked for: fewer say that answers ended by themselves


class Client:
    """Asks the server at an address, each thread on a connection of its own."""

    def __init__(self, url: str):
        address = urlparse(url)
        self.host, self.port = str(address.hostname), address.port

    def ask(self, text: str, tokens: int, seed: int, **fields: Any) -> tuple[float, int]:
        """Seconds until the whole answer is there, and its tokens."""
        body = {"model": NAME, "messages": [{"role": "user", "content": text}], "max_tokens": tokens, "seed": seed,
                **DRAWN, **fields}  # fmt: skip
        began = time.perf_counter()
        connection = http.client.HTTPConnection(self.host, self.port, timeout=600)
        connection.request("POST", "/v1/chat/completions", json.dumps(body), {"Content-Type": "application/json"})
        response = connection.getresponse()
        answer = json.loads(response.read())
        connection.close()
        if response.status != 200:
            raise RuntimeError(f"status {response.status}: {answer}")
        return time.perf_counter() - began, answer["usage"]["completion_tokens"]


def main() -> None:
    """Print the table."""
    parser = arguments("serve", __doc__)
    parser.add_argument("--model", type=Path, help="checkpoint directory (one of 100 million random parameters)")
    parsed = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        parsed.model = parsed.model or random_model(Path(directory))
        measured(parsed)


def measured(parsed: argparse.Namespace) -> None:
    process = started(parsed.model)
    try:
        assert process.stdout
        client = Client(process.stdout.readline().strip())
        rows = [*throughput(client, parsed), beside_long(client, parsed), overhead(client, parsed)]
    finally:
        process.terminate()
        process.wait(60)
    report("serve", rows, parsed)


def random_model(directory: Path) -> Path:
    """A checkpoint with the shipped model's vocabulary and tower, and a decoder that a step has to read from memory."""
    for file in SHIPPED.iterdir():
        if file.suffix != ".safetensors":
            shutil.copy(file, directory)
    changed = json.loads((SHIPPED / "config.json").read_text()) | WIDER
    changed["visual"]["output_dim"] = WIDER["hidden_size"]
    (directory / "config.json").write_text(json.dumps(changed))
    family, rng = families.for_config(changed, "config.json"), np.random.default_rng(0)
    shapes = family.resolve("weights").shapes(family.resolve("config").from_file(directory), HUGGING_FACE)
    weights = {name: rng.normal(0, 0.02, shape).astype(np.float32) for name, shape in shapes.items()}
    save_file(weights, directory / "model.safetensors")
    return directory


def started(model: Path) -> subprocess.Popen[str]:
    command = [sys.executable, str(ROOT / "scripts/serve.py"), "--model", str(model), "--name", NAME, "--port", "0",
               "--max_batch", str(CLIENTS), "--max_length", "512"]  # fmt: skip
    log = Path(tempfile.gettempdir()) / "serve_benchmark.log"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log.open("w"), text=True, env=environment)


def throughput(client: Client, parsed: argparse.Namespace) -> list[Row]:
    """Tokens a second of several clients, against one request after another."""
    tokens, count = (32, 16) if parsed.quick else (256, 64)
    speeds = {}
    for clients in (1, 4, CLIENTS, 1, 4, CLIENTS):  # the first round of each warms up
        began = time.perf_counter()
        with ThreadPoolExecutor(clients) as pool:
            found = list(pool.map(lambda seed: client.ask("Hi", tokens, seed)[1], range(count)))
        if sum(found) < FINISHED_EARLY * tokens * count:
            raise RuntimeError(f"{sum(found)} tokens of {tokens * count}: answers end by themselves; nothing is shown")
        speeds[clients] = sum(found) / (time.perf_counter() - began)
    rows = []
    for clients in (4, CLIENTS):
        ratio = speeds[clients] / speeds[1]
        goal = (f"≥ {THROUGHPUT:g}", ratio >= THROUGHPUT) if clients == CLIENTS else ("", None)
        rows.append(Row("throughput", f"{clients} clients", speeds[clients], speeds[1], "tokens/s", ratio, *goal))
    return rows


def beside_long(client: Client, parsed: argparse.Namespace) -> Row:
    """The slowest of short answers beside long ones, against alone: the 95th percentile of each."""
    count = 20 if parsed.quick else 60

    def short() -> float:
        return float(np.percentile([client.ask("Hi", 8, seed)[0] for seed in range(count)], 95))

    alone, over = short(), False

    def long(seed: int) -> None:
        while not over:
            client.ask("Hi", 400, seed)

    with ThreadPoolExecutor(6) as pool:
        running = [pool.submit(long, seed) for seed in range(6)]
        time.sleep(1)
        beside = short()
        over = True
    for each in running:
        each.result()
    ratio = beside / alone
    return Row("short beside 6 long, p95", "8 tokens", 1e3 * beside, 1e3 * alone, "ms", ratio, f"≤ {BESIDE_LONG:g}",
               ratio <= BESIDE_LONG)  # fmt: skip


def overhead(client: Client, parsed: argparse.Namespace) -> Row:
    """A request's milliseconds beyond model.chat, in turn, medians."""
    model, template = load(parsed.model)
    settings = {"do_sample": True, "temperature": 50.0, "top_k": 0, "top_p": 1.0, "max_new_tokens": 8}
    ours, chat = [], []
    for seed in range(-3, 20 if parsed.quick else 100):
        began = time.perf_counter()
        model.chat(template, "Hi", seed=max(seed, 0), **settings)
        between = time.perf_counter()
        client.ask("Hi", 8, max(seed, 0))
        if seed >= 0:
            chat.append(between - began)
            ours.append(time.perf_counter() - between)
    served, alone = 1e3 * float(np.median(ours)), 1e3 * float(np.median(chat))
    more, goal = served - alone, f"≤ {OVERHEAD:g} ms more"
    return Row("over model.chat", "8 tokens, medians", served, alone, "ms", more, goal, more <= OVERHEAD)


if __name__ == "__main__":
    main()
