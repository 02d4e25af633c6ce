"""How the cost of a training step grows with the sequence, the images, the layers and the batch: exponents and a plot.

    python benchmarks/scaling.py [--quick] [--cores N]

One size is doubled several times while the others stay. The exponent is the slope of log time over log size, fitted by
least squares; 1 is linear, and less where a part does not grow. Attention's scores and their softmax grow with the
square of the sequence: the sequence is fitted with them, and without what they cost when timed alone. The plot is
written beside the JSON, as PNG.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
from harness import Row, arguments, interleaved, report
from training import Case, Shape, columns, our_step, use_cores

SMALL = Case(Shape(layers=2, vocab=8192, vision_layers=2, queries=16), length=1024)
LIMIT, DOUBLINGS, QUICK_DOUBLINGS = 1.1, 4, 3
Curve = tuple[list[int], list[float]]  # sizes, seconds


def main() -> None:
    """Print and write the table and the plot."""
    parser = arguments("scaling", __doc__)
    parser.add_argument("--cores", type=int, help="cores to use (all that this process may use)")
    given = parser.parse_args()
    use_cores(given.cores)
    powers = [2**power for power in range(QUICK_DOUBLINGS if given.quick else DOUBLINGS)]
    curves = {
        "sequence": curve(
            lambda size: SMALL.changed(length=size), [SMALL.length * power for power in powers], given.repeats
        ),
        "images": curve(lambda size: SMALL.changed(images=size), powers, given.repeats),
        "layers": curve(lambda size: SMALL.changed(shape=replace(SMALL.shape, layers=size)), powers, given.repeats),
        "batch": curve(lambda size: SMALL.changed(rows=size), powers, given.repeats),
    }
    sizes, seconds = curves["sequence"]
    own = attention_seconds(sizes, given.repeats)
    curves["sequence without attention"] = (sizes, [whole - part for whole, part in zip(seconds, own)])
    report("scaling", [row(name, *found) for name, found in curves.items()], given)
    plot(curves, given.output_path.with_suffix(".png"))


def curve(case_of: Callable[[int], Case], sizes: Sequence[int], repeats: int) -> Curve:
    """Median seconds of a step at each size, the sizes in turn."""
    seconds = interleaved({size: step_of(case_of(size)) for size in sizes}, repeats)
    return list(sizes), [statistics.median(seconds[size]) for size in sizes]


@cache
def step_of(case: Case) -> Callable[[], None]:
    """A training step of one case; kept, as the curves have cases in common and compiling is most of the time."""
    step, batch = our_step(case), columns(case)
    return lambda: step(batch)


def attention_seconds(sizes: Sequence[int], repeats: int) -> list[float]:
    """What scores, softmax and mixing cost in the layers of ``SMALL``, forward and backward."""
    import mindspore as ms

    from ms_impl.cells.attention import attention
    from ms_impl.kernels.operators import train_by_kernels

    shape, steps = SMALL.shape, {}
    heads = shape.width // 64
    for size in sizes:
        cell = attention(heads, 64).set_train()
        train_by_kernels(cell)
        tensors = [ms.Tensor(np.random.default_rng(0).normal(0, 1, (1, heads, size, 64)), ms.float32) for _ in range(3)]
        segments, places = ms.ops.ones((1, size), ms.int32), ms.ops.arange(size).astype(ms.int32)
        mask = cell.causal_mask(segments, places, heads, ms.float32)
        gradients = ms.jit(ms.grad(cell, grad_position=(0, 1, 2)))
        steps[size] = lambda f=gradients, t=tensors, m=mask: [gradient.asnumpy() for gradient in f(*t, m)]
    seconds = interleaved(steps, repeats)
    return [statistics.median(seconds[size]) * shape.layers for size in sizes]


def exponent(sizes: Sequence[int], seconds: Sequence[float]) -> float:
    """The slope of log time over log size."""
    return float(np.polyfit(np.log(sizes), np.log(seconds), 1)[0])


def row(name: str, sizes: list[int], seconds: list[float]) -> Row:
    """A curve's exponent against linear growth; the sequence has no limit with attention in it."""
    slope, case = exponent(sizes, seconds), f"{name}, {sizes[0]} … {sizes[-1]}"
    if name == "sequence":
        return Row("cost against size", case, slope, 1.0, "exponent", slope)
    return Row("cost against size", case, slope, 1.0, "exponent", slope, f"≤ {LIMIT}", slope <= LIMIT)


def plot(curves: dict[str, Curve], path: Path) -> None:
    """Relative time over relative size, both logarithmic."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6, 4.5))
    for name, (sizes, seconds) in curves.items():
        label = f"{name}: exponent {exponent(sizes, seconds):.2f}"
        axes.loglog(np.array(sizes) / sizes[0], np.array(seconds) / seconds[0], marker="o", label=label, base=2)
    axes.set_xlabel("size, relative")
    axes.set_ylabel("time of a training step, relative")
    axes.legend()
    figure.tight_layout()
    figure.savefig(path)


if __name__ == "__main__":
    main()
