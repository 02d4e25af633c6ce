"""What the stages of making a small model have in common: arguments, learning rate, the checkpoint that they write."""

from __future__ import annotations

import argparse
import math
from pathlib import Path

from ms_impl.io.atomic_write import atomic_write
from ms_impl.io.checkpoint_assets import CONFIG_NAME, collect

WARM_UP = 100  # steps


def maker(description: str) -> argparse.ArgumentParser:
    """A parser that knows where to write, and the seed."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--output_path", type=Path, required=True, help="directory to make")
    parser.add_argument("--seed", type=int, default=0)
    return parser


def add_counts(parser: argparse.ArgumentParser, **most: tuple[int, int]) -> None:
    """How many of each kind there are to train on and to test, by default so many."""
    for kind, counts in most.items():
        parser.add_argument(
            f"--{kind}", type=int, nargs=2, default=counts, metavar=("TRAIN", "TEST"),
            help=f"{kind} to train on and to test (%(default)s)",
        )  # fmt: skip


def trainer(
    description: str, steps: int, learning_rate: float, batch_size: int | None = None
) -> argparse.ArgumentParser:
    """A maker that trains a checkpoint, and by default how; ``batch_size``: where it can be chosen."""
    parser = maker(description)
    parser.add_argument("--model", type=Path, required=True, help="checkpoint in Hugging Face's layout to begin with")
    parser.add_argument("--steps", type=int, default=steps, help="default: %(default)s")
    parser.add_argument("--learning_rate", type=float, default=learning_rate, help="at its peak (%(default)s)")
    if batch_size:
        parser.add_argument("--batch_size", type=int, default=batch_size, help="default: %(default)s")
    return parser


def learning_rate(step: int, steps: int, peak: float) -> float:
    """Linear warm-up, then a cosine down to nearly nothing."""
    return peak * min(step / WARM_UP, 0.5 * (1 + math.cos(math.pi * step / steps)) * 0.98 + 0.02)


def save(model, origin: Path, output: Path) -> None:
    """Write a checkpoint directory: the weights of a torch module, and what else the one has that it came from."""
    from safetensors.torch import save_file

    with atomic_write(output) as folder:
        folder.mkdir(parents=True)
        for name, content in collect(origin, origin / CONFIG_NAME).items():
            (folder / name).write_bytes(content)
        save_file(model.state_dict(), folder / "model.safetensors", {"format": "pt"})
