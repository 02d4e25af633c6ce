"""A training step, full and LoRA, with and without recomputation: tokens a second and peak memory against torch_ref.

    python benchmarks/train_step.py [--quick] [--cores N]

Ours is the step that the Trainer runs (forward, backward, overflow check, clipping, AdamW) in GRAPH_MODE; the anchor is
torch_ref in eager mode with ``torch.optim.AdamW`` and ``clip_grad_norm_``, adapters by PEFT, recomputation by
``torch.utils.checkpoint``. The vision tower is frozen, its resampler trained, as in Qwen-VL's third stage; adapters
alone are trained with LoRA. Both start with the same weights and must report the same first loss.

Peak memory is that of a process which takes three steps of one kind, less that of one which only imports the same.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Iterator

from harness import Row, arguments, interleaved, peak_memory, report
from training import Case, Shape, columns, our_step, torch_step, use_cores

GOAL, MIB, MEMORY_STEPS, LOSS_TOLERANCE = 1.0, 2**20, 3, 1e-4
SIDES = ("ours", "torch")


def main() -> None:
    """Print and write the table; as a child process, run one side of one case."""
    parser = arguments("train_step", __doc__)
    parser.add_argument("--cores", type=int, help="cores for either side (all that this process may use)")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--kind", type=json.loads, help=argparse.SUPPRESS)
    given = parser.parse_args()
    use_cores(given.cores)
    case = Case(Shape(layers=4), length=512) if given.quick else Case()
    if given.side:
        return run_alone(given.side, case, given.kind)
    rows = []
    for kind in kinds():
        rows += [speed(case.changed(**kind), given.repeats), *memory(kind, given)]
    report("train_step", rows, given)


def kinds() -> Iterator[dict[str, bool]]:
    """What is trained, and how."""
    for lora in (False, True):
        for recompute in (False, True):
            yield {"lora": lora, "recompute": recompute}


def name(lora: bool, recompute: bool) -> str:
    """A case as the table has it."""
    return f"{'LoRA' if lora else 'full'}{', recompute' if recompute else ''}"


def speed(case: Case, repeats: int) -> Row:
    """Tokens a second of both sides, in turn."""
    batch = columns(case)
    ours, weights = our_step(case)
    theirs = torch_step(case, weights)
    losses = ours(batch), theirs(batch)
    if abs(losses[0] - losses[1]) > LOSS_TOLERANCE * losses[1]:
        raise SystemExit(f"error: the first losses differ: ours {losses[0]}, torch_ref's {losses[1]}")
    seconds = interleaved({"ours": lambda: ours(batch), "torch": lambda: theirs(batch)}, repeats)
    rates = [case.rows * case.length / statistics.median(seconds[side]) for side in SIDES]
    ratio = rates[0] / rates[1]
    question = "train step, speed"
    return Row(question, name(case.lora, case.recompute), *rates, "tokens/s", ratio, f"≥ {GOAL}", ratio >= GOAL)


def memory(kind: dict[str, bool], given: argparse.Namespace) -> Iterator[Row]:
    """Peak memory of both sides, and of what is imported."""
    command = [sys.executable, __file__, *(["--quick"] if given.quick else [])]
    if given.cores:
        command += ["--cores", str(given.cores)]
    peaks = {}
    for side in SIDES:
        imports, whole = (peak_memory([*command, "--side", side, "--kind", json.dumps(k)]) for k in (None, kind))
        peaks[side] = (whole - imports) / MIB
    ratio = peaks["torch"] / peaks["ours"]
    figures = peaks["ours"], peaks["torch"], "MiB", ratio
    yield Row("train step, memory", name(**kind), *figures, f"≥ {GOAL}", ratio >= GOAL)


def run_alone(side: str, case: Case, kind: dict[str, bool] | None) -> None:
    """Steps of one side for its memory; none where ``kind`` is None: that imports alone."""
    tiny = Case(Shape(width=128, layers=1, vocab=256, vision_width=64, vision_layers=1, queries=64), length=128)
    case = tiny if kind is None else case.changed(**kind)
    train = our_step(case)[0] if side == "ours" else torch_step(case)
    batch = columns(case)
    for _ in range(MEMORY_STEPS if kind is not None else 0):
        train(batch)


if __name__ == "__main__":
    main()
