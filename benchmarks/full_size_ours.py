"""One prompt answered by this package, with its memory and its times: ``full_size.py`` starts it as a process.

    python benchmarks/full_size_ours.py OPTIONS.json

Writes the tokens, the logits before each, and every layer's output beside OPTIONS.json.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from mindspore import Parameter
from reading import reader

from ms_impl.generate.host_weights import content

TURNS, ARRAY_BYTES = 9, 1 << 29  # the second beyond most caches


def anonymous_bytes() -> int:
    """Memory of this process that no file backs."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("RssAnon"))


class Peak:
    """The most anonymous memory that was seen, 50 times a second."""

    def __init__(self):
        self.bytes = 0
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        while True:
            self.bytes = max(self.bytes, anonymous_bytes())
            time.sleep(0.02)


def recorded(graph: Callable, directory: Path, name: str) -> Callable:
    """The same graph; what it returns is written to files, call after call."""
    count = 0

    def call(*given):
        nonlocal count
        result = graph(*given)
        np.save(directory / f"{name}_{count:04}.npy", result.asnumpy())
        count += 1
        return result

    return call


def in_turn(step: Callable[[], object], weights: Sequence[Parameter]) -> dict[str, list[float]]:
    """GB/s of reading an array, and of reading a step's weights where they lie; and seconds of a step, each in turn.

    Neighbours share the machine's memory, and not all of it is equally near: what was measured at another time, or of
    other pages, says little.
    """
    read, array = reader(), np.ones(ARRAY_BYTES // 4, np.float32)
    matrices = [content(each).reshape(-1).view(np.float32) for each in weights if each.ndim > 1]
    found: dict[str, list[float]] = {"step": [], "memory": [], "weights": []}
    for _ in range(TURNS):
        start = time.perf_counter()
        step()
        found["step"].append(time.perf_counter() - start)
        found["memory"].append(ARRAY_BYTES / read(array) / 1e9)
        found["weights"].append(sum(each.nbytes for each in matrices) / sum(map(read, matrices)) / 1e9)
    return found


def main(options_file: str) -> None:
    """Answer."""
    options = json.loads(Path(options_file).read_text())
    folder, peak = Path(options_file).parent, Peak()
    from full_size_prompt import make

    from ms_impl import families
    from ms_impl.generate.encoders import LayeredEncoder
    from ms_impl.generate.load import load_model

    family = families.get(options["family"])
    model = load_model(options["checkpoint"], options["dtype"])[0]
    loaded = time.time()
    prompt = make(options["family"], model.config, options["length"], options["side"])
    kinds = family.resolve("template").kinds
    length, count = prompt.batch["input_ids"].shape[1], options["tokens"]
    encoders = model.decoders.encoder
    for kind in kinds:
        encoder = encoders.encoder(kind.encode)
        if isinstance(encoder, LayeredEncoder):
            encoder.layer = recorded(encoder.layer, folder, kind.encode)
    with model.decoders.lend(1, length + count + TURNS + 1) as decoder:
        decoder.through.graph = recorded(decoder.through.graph, folder, "decoder")
        logits, tokens = [decoder.prefill(prompt.batch, kinds)[0]], []
        answered = time.time()
        for _ in range(count):
            tokens.append(int(logits[-1].argmax()))
            logits.append(decoder.step(np.array(tokens[-1:]))[0])
        most, parts = peak.bytes, model.decoder_parts()
        weights = [parts.head, *(parameter for layer in parts.cells for parameter in layer.get_parameters())]
        turns = in_turn(lambda: decoder.step(np.array(tokens[-1:])), weights)
    np.save(folder / "logits.npy", np.stack(logits))
    read = sum(parameter.nbytes for parameter in weights)
    read += sum(p.nbytes for p in decoder.cache.get_parameters()) * (length + count // 2) // decoder.capacity
    result = {
        "tokens": tokens, "peak": most, "dtype": str(parts.head.dtype), "length": length, "step_bytes": read,
        "load_s": loaded - options["started"], "first_token_s": answered - options["started"], "turns": turns,
    }  # fmt: skip
    (folder / "ours.json").write_text(json.dumps(result))


if __name__ == "__main__":
    main(sys.argv[1])
