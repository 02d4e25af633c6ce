"""Packed rows against the old port's way, one dialogue padded to the whole row: useful tokens a second.

    python benchmarks/packing.py [--quick] [--cores N]

Qwen-VL trains on rows of 2048 tokens, 256 of them an image's; here everything is a quarter of that, so that it runs on
a CPU. Conversations are as long as LLaVA-Instruct's: one image each, and around it text whose length is log-normal
(median 55, that is 220 at full size; σ of its logarithm 0.5). The tower's work on an image is about 5 % of that on a
whole row, as in the 9.6B model. Both ways run the Trainer's step on rows that our own packing and collation made, one
row a step. A useful token is one that is not padding.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

import numpy as np
from harness import Row, arguments, interleaved, report
from training import Case, Shape, our_step, use_cores

from ms_impl.data.batch import collate
from ms_impl.data.packing import best_fit, pack
from ms_impl.data.sample import IGNORED, Outline, Placed, Sample, Sizes
from ms_impl.qwenvl.template import IMAGES

ROW, DIALOGUES, GOAL = 512, 2000, 2.5
MEDIAN, SIGMA, SHORTEST, LONGEST = 55, 0.5, 8, 400  # tokens of text
MARKS = 2  # tokens around an image
SHAPE = Shape(layers=4, vision_width=384, vision_layers=4, image_size=224)


def main() -> None:
    """Print and write the table."""
    parser = arguments("packing", __doc__)
    parser.add_argument("--cores", type=int, help="cores to use (all that this process may use)")
    given = parser.parse_args()
    use_cores(given.cores)
    shape = Shape(layers=1, vision_width=64, vision_layers=1) if given.quick else SHAPE
    dialogues = drawn(shape)
    lengths = [len(dialogue) for dialogue in dialogues]
    needs = np.stack([lengths, np.ones_like(lengths)], axis=1)
    packed = best_fit(needs, (ROW, ROW // (shape.queries + MARKS)), RandomImages.needs)
    slots = max(map(len, packed))
    order = np.random.default_rng(1).permutation(len(packed))[: given.repeats]
    batches = {
        "packed": [batch([dialogues[i] for i in packed[row]], shape, slots) for row in order],
        "padded": [batch([dialogues[packed[row][0]]], shape, 1) for row in order],
    }
    useful = {"packed": sum(lengths) / len(packed), "padded": statistics.mean(lengths)}
    rates = measured(shape, slots, batches, useful, given.repeats)
    ratio = rates["packed"] / rates["padded"]
    case = f"{useful['packed'] / ROW:.0%} of a packed row is useful, {useful['padded'] / ROW:.0%} of a padded one"
    row = Row("packing", case, rates["packed"], rates["padded"], "tokens/s", ratio, f"≥ {GOAL}", ratio >= GOAL)
    report("packing", [row], given)


def drawn(shape: Shape) -> list[Sample]:
    """Conversations of random tokens, the second half of each text an answer; an image's source is a number from 0."""
    rng = np.random.default_rng(0)
    texts = np.clip(rng.lognormal(np.log(MEDIAN), SIGMA, DIALOGUES), SHORTEST, LONGEST).astype(int)
    dialogues = []
    for number, text in enumerate(texts):
        ids = rng.integers(0, shape.vocab, shape.queries + MARKS + text).astype(np.int32)
        labels = np.where(np.arange(len(ids)) >= len(ids) - text // 2, ids, IGNORED).astype(np.int32)
        image = Placed(IMAGES.name, number, np.arange(1, shape.queries + 1, dtype=np.int32))
        positions = np.arange(len(ids), dtype=np.int32)
        dialogues.append(Sample(ids, positions, labels, media=(image,), record=f"dialogue {number}"))
    return dialogues


def batch(dialogues: Sequence[Sample], shape: Shape, slots: int) -> dict[str, np.ndarray]:
    """The columns of one row."""
    arrays = collate([pack(dialogues)], RandomImages(shape), {"tokens": ROW, "images": slots})
    return {**arrays, "seeds": np.zeros(1, np.int32)}


class RandomImages:
    """Of a template what a batch asks for; an image is noise seeded by its number."""

    kinds, needs, position_axes, padding_shifts_positions, pad_id = (IMAGES,), ("tokens", "images"), 1, True, 0

    def __init__(self, shape: Shape):
        self.fixed_sizes = {"side": shape.image_size, "queries": shape.queries}
        self.tokenizer = self

    def largest(self, outline: Outline) -> dict[str, int]:
        return {}

    def need(self, outline: Outline, sizes: Sizes) -> dict[str, int]:
        return {"tokens": outline.tokens, "images": len(outline.media)}

    def load(self, media: Sequence[Placed], out: Mapping[str, np.ndarray], offset: int = 0) -> None:
        for number, image in enumerate(media):
            pixels = out["images"][number]
            pixels[:] = np.random.default_rng(image.source).normal(0, 1, pixels.shape)
            out["image_context_pos"][number] = image.columns + offset


def measured(
    shape: Shape, slots: int, batches: dict[str, list], useful: dict[str, float], repeats: int
) -> dict[str, float]:
    """Useful tokens a second of either way, in turn on the same rows' dialogues."""
    case = Case(shape, length=ROW)
    steps = {"packed": our_step(case.changed(images=slots)), "padded": our_step(case)}
    queues = {way: iter([*rows[-1:], *rows]) for way, rows in batches.items()}  # the first warms up
    seconds = interleaved({way: lambda way=way: steps[way](next(queues[way])) for way in steps}, repeats)
    return {way: useful[way] / statistics.median(seconds[way]) for way in steps}


if __name__ == "__main__":
    main()
