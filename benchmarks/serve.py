"""What the server makes of a model: tokens a second, times to the first token and per token at 1, 4 and 16 clients.

    OMP_NUM_THREADS=2 python benchmarks/serve.py [--quick] [--rounds N] [--model DIR] [--soak MINUTES]

Servers in processes of their own, and clients in threads of this one. Anchors, each in the same run: the same requests
sent one at a time; torch_ref, which answers one request after another (torch_server.py); model.chat in this process.
The model has the width of a real one and few layers, so that a step has to read its weights from memory; what the
server itself costs is measured with the small one that is shipped. Answers are drawn from random tokens, all as long.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlparse

os.environ.setdefault("OMP_NUM_THREADS", str(len(os.sched_getaffinity(0))))

import numpy as np
from harness import Row, arguments, report
from PIL import Image
from safetensors.numpy import save_file
from serve_ends import NAME, ROOT, Client, Timed, serving, serving_torch
from soak import LIMITS, Soak, image_part

from ms_impl import families, load
from ms_impl.io.rules import HUGGING_FACE

SHIPPED = ROOT / "assets/qwenvl_tiny_easyvqa"
WIDER = {"hidden_size": 2048, "num_hidden_layers": 4, "num_attention_heads": 16, "kv_channels": 128,
         "intermediate_size": 11008}  # fmt: skip
CLIENTS, CROWDS = 16, (1, 4, 16)
PERCENTILES = (50, 95, 99)
THROUGHPUT, BESIDE_LONG, OVERHEAD = 4.0, 2.0, 10.0  # the goals: times, times, milliseconds
FINISHED_EARLY = 0.5  # of the tokens asked for: fewer say that answers ended by themselves


def main() -> None:
    """Print the table."""
    parser = arguments("serve", __doc__)
    parser.add_argument("--model", type=Path, help="checkpoint of Qwen-VL (200 million random parameters)")
    parser.add_argument("--rounds", type=int, default=3, help="of all crowds (3)")
    parser.add_argument("--soak", type=float, metavar="MINUTES", help="only this: 32 clients, one of them misbehaves")
    parsed = parser.parse_args()
    if parsed.soak:
        soaked(parsed)
        return
    with tempfile.TemporaryDirectory() as directory:
        parsed.model = parsed.model or random_model(Path(directory))
        measured(parsed)


def measured(parsed: argparse.Namespace) -> None:
    settings = ("--max_batch", str(CLIENTS), "--max_length", "512")
    with serving(parsed.model, *settings) as (url, _), serving_torch(parsed.model) as other:
        rows = throughput({"ours": Client(url), "torch": Client(other)}, parsed)
        rows.append(beside_long(Client(url), parsed))
        with serving(parsed.model, *settings, "--kept_features_mb", "0", "--kept_prefixes_mb", "0") as (fresh, _):
            rows.append(second_turn(Client(url), Client(fresh), parsed))
    with serving(SHIPPED, *settings) as (url, _):
        rows.append(overhead(Client(url), parsed))
    report("serve", rows, parsed)


def soaked(parsed: argparse.Namespace) -> None:
    with serving(parsed.model or SHIPPED, *LIMITS) as (url, process):
        address = urlparse(url)
        rows = Soak((str(address.hostname), int(address.port or 0)), process.pid, NAME, 60 * parsed.soak).run()
    report("soak", rows, parsed)


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


def throughput(contestants: dict[str, Client], parsed: argparse.Namespace) -> list[Row]:
    """Tokens a second and times of crowds of clients, against one request after another and against torch_ref.

    Crowds and contestants take turns, and medians are compared, so that a busy machine slows all of them.
    """
    tokens, rounds = (32, 1) if parsed.quick else (128, parsed.rounds)
    measured: dict[tuple[str, int], list[float]] = {}
    timed: dict[tuple[str, int], list[Timed]] = {}
    for client in contestants.values():
        crowd(client, 1, 2, 4)  # warms up
    for _ in range(rounds):
        for clients in CROWDS:
            for name, client in contestants.items():
                requests = max(clients, 4) * (2 if name == "ours" else 1)
                began = time.perf_counter()
                found = crowd(client, clients, requests, tokens)
                count = sum(one.tokens for one in found)
                measured.setdefault((name, clients), []).append(count / (time.perf_counter() - began))
                timed.setdefault((name, clients), []).extend(found)
                if count < FINISHED_EARLY * tokens * len(found):
                    raise RuntimeError("answers end by themselves; nothing is shown")
    speeds = {each: float(np.median(found)) for each, found in measured.items()}
    rows = []
    for clients in CROWDS[1:]:
        ratio = speeds["ours", clients] / speeds["ours", 1]
        goal = (f"≥ {THROUGHPUT:g}", ratio >= THROUGHPUT) if clients == CLIENTS else ("", None)
        rows.append(Row("throughput", f"{clients} clients; anchor: 1", speeds["ours", clients], speeds["ours", 1],
                        "tokens/s", ratio, *goal))  # fmt: skip
    for clients in CROWDS:
        ours, torch = speeds["ours", clients], speeds["torch", clients]
        rows.append(Row("throughput against torch_ref", f"{clients} clients", ours, torch, "tokens/s", ours / torch))
        rows += times(clients, timed["ours", clients], timed["torch", clients])
    return rows


def crowd(client: Client, clients: int, requests: int, tokens: int) -> list[Timed]:
    """So many requests by so many clients."""
    with ThreadPoolExecutor(clients) as pool:
        return list(pool.map(lambda seed: client.stream(tokens, seed), range(requests)))


def times(clients: int, ours: list[Timed], torch: list[Timed]) -> list[Row]:
    """Percentiles of the times to the first token and per token."""
    rows = []
    for name, field in (("first token", "first"), ("time per token", "per_token")):
        for percent in PERCENTILES:
            mine, theirs = (1e3 * float(np.percentile([getattr(one, field) for one in found], percent))
                            for found in (ours, torch))  # fmt: skip
            case = f"{clients} clients, p{percent}"
            rows.append(Row(f"{name} against torch_ref", case, mine, theirs, "ms", mine / theirs))
    return rows


def beside_long(client: Client, parsed: argparse.Namespace) -> Row:
    """The slowest of short answers beside long ones, against alone: the 95th percentile of each."""
    count = 20 if parsed.quick else 60

    def short() -> float:
        return float(np.percentile([client.ask(8, seed)[0] for seed in range(count)], 95))

    alone, over = short(), False

    def long(seed: int) -> None:
        while not over:
            client.ask(400, seed)

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


def second_turn(keeping: Client, fresh: Client, parsed: argparse.Namespace) -> Row:
    """The first token of a conversation's second turn, where the first one was kept, against where nothing is."""
    shape = Image.open(ROOT / "assets/demo.png").convert("RGB")
    found: dict[Client, list[float]] = {keeping: [], fresh: []}
    for seed in range(4 if parsed.quick else 12):
        content = [image_part(shape.rotate(7 * seed)), {"type": "text", "text": "Is it a circle? " * 12}]
        first = [{"role": "user", "content": content}]
        both = [*first, {"role": "assistant", "content": "It is."}, {"role": "user", "content": "What color is it?"}]
        for client, seconds in found.items():
            client.stream(4, seed, first)
            seconds.append(client.stream(4, seed, both).first)
    ours, anchor = (1e3 * float(np.median(seconds[1:])) for seconds in found.values())  # the first ones compile
    return Row("first token of a second turn", "an image, some 400 tokens; anchor: nothing kept", ours, anchor, "ms",
               ours / anchor)  # fmt: skip


def overhead(client: Client, parsed: argparse.Namespace) -> Row:
    """A request's milliseconds beyond model.chat, in turn, medians."""
    model, template = load(SHIPPED)
    settings = {"do_sample": True, "temperature": 50.0, "top_k": 0, "top_p": 1.0, "max_new_tokens": 8}
    ours, chat = [], []
    for seed in range(-3, 20 if parsed.quick else 100):
        began = time.perf_counter()
        model.chat(template, "Hi", seed=max(seed, 0), **settings)
        between = time.perf_counter()
        client.ask(8, max(seed, 0))
        if seed >= 0:
            chat.append(between - began)
            ours.append(time.perf_counter() - between)
    served, alone = 1e3 * float(np.median(ours)), 1e3 * float(np.median(chat))
    more, goal = served - alone, f"≤ {OVERHEAD:g} ms more"
    return Row("over model.chat", "8 tokens, medians", served, alone, "ms", more, goal, more <= OVERHEAD)


if __name__ == "__main__":
    main()
