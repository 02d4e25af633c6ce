"""Logits of models in a process of their own: ``python kept_graphs.py OUTPUT.npz TASK … [--weak]``.

A task is MODEL:BATCH,BATCH… with the batches to decode in that order; "doubled" doubles the head's weights.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from ms_impl import load
from ms_impl.generate import graph_cache
from ms_impl.qwenvl.model import QwenVL
from ms_impl.qwenvl.template import QwenVLTemplate

STEPS = 3


def main(output: str, *tasks: str) -> None:
    if "--weak" in tasks:  # a key that knows shapes alone
        graph_cache.fingerprint = lambda cell, inputs: f"{type(cell).__name__}{graph_cache.form(inputs)}"
    logits = {}
    for task in filter(lambda task: task != "--weak", tasks):
        directory, _, names = task.rpartition(":")
        model, _ = load(Path(directory))
        for name in names.split(","):
            logits[f"{Path(directory).name} {name}"] = decode(model, name)
    np.savez(output, **logits)


def decode(model: QwenVL, name: str) -> np.ndarray:
    """Logits [STEPS + 1, vocab] after a prompt and each of some tokens."""
    if name == "doubled":
        model.lm_head.weight.set_data(model.lm_head.weight * 2)
    config, length = model.config, {"short": 20, "long": 100}.get(name, 60)
    generator = np.random.default_rng(0)
    ids = generator.integers(0, config.image_start_id, (1, length), dtype=np.int32)
    batch = {"input_ids": ids, "segment_ids": np.ones_like(ids)}
    if name == "image":
        batch["images"] = generator.normal(size=(1, 1, 3, *[config.visual.image_size] * 2)).astype(np.float32)
        batch["image_context_pos"] = np.arange(5, 5 + config.num_queries, dtype=np.int32).reshape(1, 1, -1)
    with model.decoders.lend(1, length + STEPS) as decoder:
        return np.concatenate(
            [
                decoder.prefill(batch, QwenVLTemplate.kinds),
                *(decoder.step(np.array([token])) for token in range(STEPS)),
            ]
        )


if __name__ == "__main__":
    main(*sys.argv[1:])
