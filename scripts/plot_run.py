"""The curves of one run or several as an image: loss, learning rate, gradient norm, useful tokens/s, scores.

    python scripts/plot_run.py output --output_path run.png

Each directory is the ``output_dir`` of a run; several are laid over one another. What fluctuates over more than some
hundred steps is drawn faint, with its running mean over it.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

from ms_impl.cli.main import command
from ms_impl.errors import InputError
from ms_impl.io.atomic_write import atomic_write
from ms_impl.train.loss_log import read_losses, read_records

matplotlib.use("Agg")
from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, StrMethodFormatter

_CURVES = {
    "loss": "loss",
    "lr": "learning rate",
    "grad_norm": "gradient norm",
    "useful_tokens_per_second": "useful tokens/s",
}
_SMOOTHED = ("loss", "grad_norm", "useful_tokens_per_second")
_WINDOWS = 40  # a running mean takes this part of the steps
_COLUMNS, _PANEL = 2, (5.2, 2.7)  # inches
_FORMATS = (".png", ".svg", ".pdf")
# Told apart with any colour vision (Okabe and Ito), and none like the mark of an overflow.
_COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00")
_OVERFLOW = {"color": "black", "marker": "x", "s": 36, "zorder": 3}
_LINES = ("-", "--", ":", "-.")  # the learning rates of several groups


@dataclass
class Run:
    """What a run wrote down: one record a step, and one for each evaluation. ``name`` is how the legend has it."""

    name: str
    steps: list[dict[str, Any]]
    scores: list[dict[str, float]]

    @classmethod
    def read(cls, folder: Path) -> Run:
        """All ranks write the same losses: the first one's are read. Raises InputError naming the file."""
        log, scores = folder / "losses/rank_0.jsonl", folder / "eval/scores.jsonl"
        if not (steps := read_losses(log)):
            raise InputError(f"{log}: holds no step yet")
        evaluations = read_records(scores, ("step",)) if scores.exists() else []
        return cls(str(folder), steps, [_flat(evaluation) for evaluation in evaluations])

    def curve(self, key: str) -> tuple[np.ndarray, np.ndarray]:
        """The steps' numbers int [N], and a quantity of each: float [N, 1], or a column for each group of parameters.

        NaN stands where a step has none.
        """
        numbers = np.array([step["step"] for step in self.steps])
        return numbers, np.array([np.atleast_1d(step.get(key)) for step in self.steps], dtype=float)


def plot(runs: Sequence[Run], output_path: Path) -> None:
    """Draw the runs into a PNG, SVG or PDF. Raises InputError where it cannot be written."""
    if output_path.suffix.lower() not in _FORMATS:
        raise InputError(f"{output_path}: unknown ending '{output_path.suffix}'; give one of {', '.join(_FORMATS)}")
    curves = [key for key in _CURVES if any(step.get(key) is not None for run in runs for step in run.steps)]
    scores = sorted({key for run in runs for record in run.scores for key in record if key != "step"})
    rows = math.ceil((len(curves) + len(scores)) / _COLUMNS)
    size = (_PANEL[0] * _COLUMNS, _PANEL[1] * rows + 0.4)
    figure, panels = pyplot.subplots(rows, _COLUMNS, figsize=size, layout="constrained", sharex=True, squeeze=False)
    axes = list(panels.flat)
    for key, panel in zip(curves, axes):
        draw_curves(panel, runs, key)
    for key, panel in zip(scores, axes[len(curves) :]):
        draw_scores(panel, runs, key)
    for panel in axes[len(curves) + len(scores) :]:
        panel.remove()
    _label_steps(axes[: len(curves) + len(scores)])
    _add_legend(figure, axes[0])
    _save(figure, output_path)


def draw_curves(panel: Axes, runs: Sequence[Run], key: str) -> None:
    """One quantity of all runs over the steps."""
    panel.set_title(_CURVES[key], loc="left", fontsize=10)
    for index, run in enumerate(runs):
        steps, values = run.curve(key)
        window = len(steps) // _WINDOWS if key in _SMOOTHED else 0
        for group, line in zip(range(values.shape[1]), cycle(_LINES)):
            style = {"color": _colour(index), "linestyle": line}
            if window > 1:
                panel.plot(steps, values[:, group], alpha=0.25, linewidth=0.8, **style)
            panel.plot(steps, running_mean(values[:, group], window), label=run.name if group == 0 else None, **style)
    if key == "loss":
        mark_overflows(panel, runs)
    if key == "lr":
        _name_groups(panel, max(run.curve(key)[1].shape[1] for run in runs))
        panel.yaxis.set_major_formatter(StrMethodFormatter("{x:.1e}"))
    if key == "useful_tokens_per_second":
        panel.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
        panel.set_ylim(bottom=0)


def mark_overflows(panel: Axes, runs: Sequence[Run]) -> None:
    """The losses of those steps whose gradient was not finite."""
    for run in runs:
        steps, losses = run.curve("loss")
        if (overflow := np.array([bool(step.get("overflow")) for step in run.steps])).any():
            panel.scatter(steps[overflow], losses[overflow, 0], label="overflow: not updated", **_OVERFLOW)


def draw_scores(panel: Axes, runs: Sequence[Run], key: str) -> None:
    """One score of all runs' evaluations."""
    panel.set_title(key, loc="left", fontsize=10)
    for index, run in enumerate(runs):
        scored = [record for record in run.scores if key in record]
        steps, values = [record["step"] for record in scored], [record[key] for record in scored]
        panel.plot(steps, values, "o-", color=_colour(index), markersize=4)


def _colour(index: int) -> str:
    return _COLOURS[index % len(_COLOURS)]


def _name_groups(panel: Axes, groups: int) -> None:
    """Which line is the learning rate of which group of parameters: the rest's first, as in the YAML."""
    if groups > 1:
        names = ["default", *(f"group {number}" for number in range(1, groups))]
        handles = [Line2D([], [], color="grey", linestyle=line) for _, line in zip(names, cycle(_LINES))]
        panel.legend(handles, names, fontsize=8, frameon=False)


def running_mean(values: np.ndarray, window: int) -> np.ndarray:
    """Each value's mean with its neighbours, ``window`` in all, over those that are finite; NaN where it is not."""
    if window < 2:
        return values
    finite = np.isfinite(values)
    kernel = np.ones(window)
    sums = np.convolve(np.where(finite, values, 0), kernel, "same")
    return np.where(finite, sums / np.maximum(np.convolve(finite, kernel, "same"), 1), np.nan)


def _flat(evaluation: Mapping[str, Any]) -> dict[str, float]:
    """The step and every score, by the names of its data set and its own."""
    data_sets = ((name, scores) for name, scores in evaluation.items() if name != "step")
    flat = {f"{name}: {key}": score for name, scores in data_sets for key, score in scores.items()}
    return {"step": evaluation["step"], **flat}


def _label_steps(panels: Sequence[Axes]) -> None:
    """The steps stand under the lowest panel of each column, in whole numbers."""
    for panel in panels:
        panel.grid(alpha=0.3)
        panel.spines[["top", "right"]].set_visible(False)
        panel.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    for panel in panels[-_COLUMNS:]:
        panel.set_xlabel("step")
        panel.xaxis.set_tick_params(labelbottom=True)


def _add_legend(figure: Figure, panel: Axes) -> None:
    entries = dict(zip(*reversed(panel.get_legend_handles_labels())))  # each label once
    figure.legend(entries.values(), entries.keys(), loc="outside upper center", ncols=3, frameon=False)


def _save(figure: Figure, output_path: Path) -> None:
    try:
        with atomic_write(output_path) as partial:
            figure.savefig(partial, format=output_path.suffix[1:].lower(), dpi=120)
    except OSError as error:
        raise InputError(f"{output_path}: cannot be written ({error.strerror})") from error
    pyplot.close(figure)


@command
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", type=Path, metavar="OUTPUT_DIR", help="output_dir of a run")
    parser.add_argument("--output_path", type=Path, required=True, help="the image to write: .png, .svg or .pdf")
    arguments = parser.parse_args(argv)
    plot([Run.read(folder) for folder in arguments.runs], arguments.output_path)
    print(f"Curves: {arguments.output_path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
