"""Ovis2.5 in training: a step against torch_ref, packed rows against padded ones, and the memory of the visual head.

    python benchmarks/ovis_training.py [--quick] [--cores N]

The step is the one that the Trainer runs (forward, backward, overflow check, clipping, AdamW) in GRAPH_MODE, on rows of
which half is images; the anchor is torch_ref in eager mode with ``torch.optim.AdamW``. Both start with the same weights
and must report the same first loss. Conversations of the packing have one image of 64 visual tokens and as much text as
LLaVA-Instruct's at a quarter of the length (log-normal, median 55, σ 0.5); the anchor pads each to a whole row. The
visual head mixes 65,532 rows of its table for 2,352 tokens, forward and backward, in a process of its own; the anchor
is torch_ref's, which holds all scores.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from harness import Row, arguments, interleaved, peak_memory, report
from training import ADAMW, LEARNING_RATE, MAX_NORM, OurStep, step_of, use_cores

from ms_impl.data.batch import collate
from ms_impl.data.packing import best_fit, pack
from ms_impl.data.sample import IGNORED, TOKENS, Placed, Sample
from ms_impl.ovis2_5.config import Ovis2_5Config
from ms_impl.ovis2_5.template import INDICATOR_ROWS, MARKERS, PATCH_ROWS, PATCHES, UNITS, VISUALS, Ovis2_5Template

SPEED_GOAL, PACKING_GOAL, MEMORY_GOAL, LOSS_TOLERANCE = 1.0, 2.5, 1.0, 1e-4
GRID = (1, 16, 16)  # frames, rows and columns of patches of an image
IMAGE_TOKENS, MARKS = 64, 2
ROW, CONVERSATIONS, MEDIAN, SIGMA, SHORTEST, LONGEST = 512, 1000, 55, 0.5, 8, 400
VISUAL_TOKENS, VISUAL_WORDS, HEAD_WIDTH = 2352, 65536, 1024


def main() -> None:
    """Print and write the table; as a child process, run the visual head once."""
    parser = arguments("ovis_training", __doc__)
    parser.add_argument("--cores", type=int, help="cores for either side (all that this process may use)")
    parser.add_argument("--head", choices=("ours", "torch", "neither"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    use_cores(given.cores)
    if given.head:
        return run_head(given.head, given.quick)
    config = configuration(given.quick)
    rows = [visual_head(given.quick), step_speed(config, given), packing(config, given)]
    report("ovis_training", rows, given)


def configuration(quick: bool) -> Ovis2_5Config:
    """Some 60 million parameters in Ovis2.5's shape; ``quick`` takes fewer layers."""
    return Ovis2_5Config.from_dict({
        "model_type": "ovis2_5", "conversation_formatter_class": "Qwen3ConversationFormatter", "hidden_size": 512,
        "visual_vocab_size": 4096,
        "llm_config": {
            "model_type": "qwen3", "vocab_size": 16384, "hidden_size": 512, "intermediate_size": 1536,
            "num_hidden_layers": 2 if quick else 8, "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 64,
        },
        "vit_config": {
            "model_type": "siglip2_navit", "hidden_size": 128, "intermediate_size": 512,
            "num_hidden_layers": 2 if quick else 4, "num_attention_heads": 2, "image_size": 512, "patch_size": 16,
        },
    })  # fmt: skip


class NoiseImages(Ovis2_5Template):
    """Of a template what a batch asks for; an image is noise seeded by its number."""

    def __init__(self, config: Ovis2_5Config):
        self.config, self.tokenizer, self.pad_id = config, self, 0

    def _patches(self, medium: Placed) -> np.ndarray:
        shape = int(np.prod(medium.geometry)), self.config.vit_config.patch_features
        return np.random.default_rng(medium.source).normal(size=shape).astype(np.float32)


def conversation(number: int, text: int, config: Ovis2_5Config, rng: np.random.Generator) -> Sample:
    """An image and so many random tokens of text, the second half of them an answer."""
    ids = rng.integers(0, config.vocab_size, IMAGE_TOKENS + MARKS + text).astype(np.int32)
    labels = np.where(np.arange(len(ids)) >= len(ids) - text // 2, ids, IGNORED).astype(np.int32)
    columns = np.arange(1, IMAGE_TOKENS + 1, dtype=np.int32)
    ends = np.array([0, IMAGE_TOKENS + 1], np.int32)
    media = (Placed(VISUALS.name, number, columns, GRID), Placed(INDICATOR_ROWS.name, None, ends, (0, 1)))
    return Sample(ids, np.arange(len(ids), dtype=np.int32), labels, media=media, record=f"conversation {number}")


def batch(conversations: Sequence[Sample], config: Ovis2_5Config, images: int) -> dict[str, np.ndarray]:
    """The columns of one row with room for so many images."""
    patches = GRID[1] * GRID[2]
    sizes = {TOKENS: ROW, PATCH_ROWS: images, MARKERS: 2 * images, PATCHES: patches, UNITS: patches // 4}
    arrays = collate([pack(conversations)], NoiseImages(config), sizes)
    return {**arrays, "seeds": np.zeros(1, np.int32)}


def our_step(config: Ovis2_5Config) -> OurStep:
    """Our training step, from columns to the loss."""
    import mindspore as ms

    from ms_impl.plugin.family_classes import config_class, model_class
    from ms_impl.train.feed import step_columns

    ms.set_context(mode=ms.GRAPH_MODE)
    ms.set_device("CPU")
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_text(json.dumps(config.to_dict()))
        section = config_class("ovis2_5")(folder)
    return step_of(model_class("ovis2_5")(section), step_columns(Ovis2_5Template))


def torch_step(config: Ovis2_5Config, weights: Mapping[str, np.ndarray]) -> Callable[[Mapping[str, np.ndarray]], float]:
    """torch_ref's training step on these weights."""
    import torch

    from torch_ref.ovis2_5.model import Ovis2_5

    torch.set_num_threads(use_cores(None))
    model = Ovis2_5(config).train()
    model.load_state_dict({name: torch.from_numpy(weights[name]) for name in model.state_dict()})
    trained = [p for name, p in model.named_parameters() if "post_layernorm" not in name]
    optimizer = torch.optim.AdamW(trained, lr=LEARNING_RATE, **ADAMW)

    def train(columns: Mapping[str, Any]) -> float:
        optimizer.zero_grad()
        given = {n: torch.from_numpy(a) for n, a in columns.items() if n not in ("seeds", "next_positions")}
        loss = model(**given)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, MAX_NORM)
        optimizer.step()
        return loss.item()

    return train


def step_speed(config: Ovis2_5Config, given: argparse.Namespace) -> Row:
    """Tokens a second of both sides, in turn, on a full row of which half is images."""
    rng, images = np.random.default_rng(0), ROW // 2 // IMAGE_TOKENS
    text = ROW // images - IMAGE_TOKENS - MARKS
    columns = batch([conversation(number, text, config, rng) for number in range(images)], config, images)
    ours = our_step(config)
    theirs = torch_step(config, ours.weights())
    losses = ours(columns), theirs(columns)
    if abs(losses[0] - losses[1]) > LOSS_TOLERANCE * losses[1]:
        raise SystemExit(f"error: the first losses differ: ours {losses[0]}, torch_ref's {losses[1]}")
    seconds = interleaved({"ours": lambda: ours(columns), "torch": lambda: theirs(columns)}, given.repeats)
    rates = [ROW / statistics.median(seconds[side]) for side in ("ours", "torch")]
    case = f"full, {ROW} tokens, {images} images"
    ratio = rates[0] / rates[1]
    return Row("Ovis2.5 train step", case, *rates, "tokens/s", ratio, f"≥ {SPEED_GOAL}", ratio >= SPEED_GOAL)


def packing(config: Ovis2_5Config, given: argparse.Namespace) -> Row:
    """Useful tokens a second, packed and padded, in turn on the same rows' conversations."""
    rng = np.random.default_rng(0)
    texts = np.clip(rng.lognormal(np.log(MEDIAN), SIGMA, CONVERSATIONS), SHORTEST, LONGEST).astype(int)
    samples = [conversation(number, text, config, rng) for number, text in enumerate(texts)]
    most = ROW // (IMAGE_TOKENS + MARKS)
    needs = np.array([[len(sample), 1, 2] for sample in samples])
    packed = best_fit(needs, (ROW, most, 2 * most), Ovis2_5Template.needs)
    slots = max(map(len, packed))
    order = rng.permutation(len(packed))[: given.repeats]
    batches = {
        "packed": [batch([samples[i] for i in packed[row]], config, slots) for row in order],
        "padded": [batch([samples[packed[row][0]]], config, 1) for row in order],
    }
    useful = {"packed": sum(map(len, samples)) / len(packed), "padded": statistics.mean(map(len, samples))}
    steps = {way: our_step(config) for way in batches}
    queues = {way: iter([*rows[-1:], *rows]) for way, rows in batches.items()}  # the first warms up
    seconds = interleaved({way: lambda way=way: steps[way](next(queues[way])) for way in steps}, given.repeats)
    rates = [useful[way] / statistics.median(seconds[way]) for way in ("packed", "padded")]
    case = f"{useful['packed'] / ROW:.0%} of a packed row is useful, {useful['padded'] / ROW:.0%} of a padded one"
    ratio = rates[0] / rates[1]
    return Row("Ovis2.5 packing", case, *rates, "tokens/s", ratio, f"≥ {PACKING_GOAL}", ratio >= PACKING_GOAL)


def visual_head(quick: bool) -> Row:
    """Peak memory of the head's forward and backward pass beyond what a process has that only imports."""
    command = [sys.executable, __file__, *(["--quick"] if quick else []), "--head"]
    imports = peak_memory([*command, "neither"])
    ours, theirs = ((peak_memory([*command, side]) - imports) / 2**20 for side in ("ours", "torch"))
    tokens, words = sizes(quick)
    case = f"{tokens:,} tokens over {words:,} words, forward and backward"
    ratio = theirs / ours
    return Row(
        "Ovis2.5 visual head, memory", case, ours, theirs, "MiB", ratio, f"≥ {MEMORY_GOAL}", ratio >= MEMORY_GOAL
    )


def sizes(quick: bool) -> tuple[int, int]:
    """Visual tokens, and rows of the table that are mixed."""
    return (588, 16384) if quick else (VISUAL_TOKENS, VISUAL_WORDS - 4)


def run_head(side: str, quick: bool) -> None:
    """Forward and backward of either side; ``neither`` imports both alone."""
    import mindspore as ms
    import torch

    from ms_impl.ovis2_5.visual_table import MixOverChunks

    tokens, words = sizes(quick)
    if side == "neither":
        return
    rng = np.random.default_rng(0)
    features = rng.normal(size=(tokens, HEAD_WIDTH)).astype(np.float32)
    weight = (rng.normal(size=(words, HEAD_WIDTH)) / HEAD_WIDTH**0.5).astype(np.float32)
    table = rng.normal(size=(words, HEAD_WIDTH)).astype(np.float32)
    gain, shift = np.ones(words, np.float32), np.zeros(words, np.float32)
    given = (features, weight, gain, shift, table)
    if side == "torch":
        x, w, g, s, t = (torch.from_numpy(array).requires_grad_() for array in given)
        scores = torch.nn.functional.layer_norm(x @ w.T, (words,), g, s, 1e-5)
        (scores.softmax(-1) @ t).sum().backward()
        return
    ms.set_context(mode=ms.GRAPH_MODE)
    names = ("features", "weight", "gain", "shift", "table")
    parameters = [ms.Parameter(ms.Tensor(array), name=name) for name, array in zip(names, given)]

    class Head(ms.nn.Cell):
        def __init__(self):
            super().__init__()
            self.mix = MixOverChunks(1e-5)
            self.features, self.weight, self.gain, self.shift, self.table = parameters

        def construct(self):
            return self.mix(self.features, self.weight, self.gain, self.shift, self.table).sum()

    value, _ = ms.value_and_grad(Head(), None, ms.ParameterTuple(parameters))()
    value.asnumpy()


if __name__ == "__main__":
    main()
