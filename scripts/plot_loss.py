"""Loss curves as a picture.

    python scripts/plot_loss.py output/losses/rank_0.jsonl --output_path loss.png

Every log becomes one curve. All ranks of a run write the same losses: one of their logs will do.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

import matplotlib

from ms_impl.errors import InputError
from ms_impl.train.loss_log import read_losses

matplotlib.use("Agg")
from matplotlib import pyplot  # noqa: E402 (after the choice of a drawer that needs no screen)


def plot(logs: list[Path], output_path: Path) -> None:
    """Draw the losses of the logs over their steps into a PNG."""
    figure, axes = pyplot.subplots(figsize=(7, 4), layout="constrained")
    for log in logs:
        steps = read_losses(log)
        if not steps:
            raise InputError(f"{log}: holds no step yet")
        axes.plot([step["step"] for step in steps], [step["loss"] for step in steps], label=str(log))
    axes.set(xlabel="step", ylabel="loss")
    axes.grid(alpha=0.3)
    axes.legend()
    partial = output_path.with_name(f".{output_path.name}.partial")
    try:
        figure.savefig(partial, format="png", dpi=120)
        os.replace(partial, output_path)
    except OSError as error:
        raise InputError(f"{output_path}: cannot be written ({error.strerror})") from error
    pyplot.close(figure)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("logs", nargs="+", type=Path, help="losses/rank_N.jsonl of a run's output_dir")
    parser.add_argument("--output_path", type=Path, required=True, help="the PNG to write")
    arguments = parser.parse_args(argv)
    try:
        plot(arguments.logs, arguments.output_path)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"Loss curve: {arguments.output_path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
