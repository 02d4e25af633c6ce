"""A training step, full and LoRA, with and without recomputation: tokens a second and peak memory against torch_ref.

    python benchmarks/train_step.py [--quick] [--cores N]

Ours is the step that the Trainer runs (forward, backward, overflow check, clipping, AdamW) in GRAPH_MODE; the anchor is
torch_ref in eager mode with ``torch.optim.AdamW`` and ``clip_grad_norm_``, adapters by PEFT, recomputation by
``torch.utils.checkpoint``. The vision tower is frozen, its resampler trained, as in Qwen-VL's third stage; adapters
alone are trained with LoRA. Both start with the same weights and must report the same first loss.

Peak memory is that of a process which takes three steps of one kind, beyond what it holds when it has imported
everything and built a tiny model. Rows without a goal say where it goes: the built model and what its optimizer holds
by then, the compiled graph (ours alone), the steps. "graph kept" is a second process, which finds the graph that the
first has kept in the user's cache: what the compiler would have left behind is not there. Only these rows have a goal
for memory, for every run but a setting's first is such a process.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from harness import Row, arguments, interleaved, report
from training import Case, Shape, columns, our_step, torch_step, use_cores

GOAL, MEMORY_GOAL, MEMORY_STEPS, LOSS_TOLERANCE = 1.0, 0.8, 3, 1e-4
SIDES = ("ours", "torch")
STAGES = ("built", "compiled", "steps")


def main() -> None:
    """Print and write the table; as a child process, run one side of one case."""
    parser = arguments("train_step", __doc__)
    parser.add_argument("--cores", type=int, help="cores for either side (all that this process may use)")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--kind", type=json.loads, help=argparse.SUPPRESS)
    given = parser.parse_args()
    use_cores(given.cores)
    case = Case(Shape(layers=2), length=512) if given.quick else Case()
    if given.side:
        return run_alone(given.side, case, given.kind)
    rows = []
    for kind in kinds(given.quick):
        rows += [speed(case.changed(**kind), given.repeats), *memory(kind, given)]
    report("train_step", rows, given)


def kinds(quick: bool) -> Iterator[dict[str, bool]]:
    """What is trained, and how: all four, or two in which each comes once."""
    for lora in (False, True):
        for recompute in (lora,) if quick else (False, True):
            yield {"lora": lora, "recompute": recompute}


def name(lora: bool, recompute: bool) -> str:
    """A case as the table has it."""
    return f"{'LoRA' if lora else 'full'}{', recompute' if recompute else ''}"


def speed(case: Case, repeats: int) -> Row:
    """Tokens a second of both sides, in turn."""
    batch = columns(case)
    ours = our_step(case)
    theirs = torch_step(case, ours.weights())
    losses = ours(batch), theirs(batch)
    if abs(losses[0] - losses[1]) > LOSS_TOLERANCE * losses[1]:
        raise SystemExit(f"error: the first losses differ: ours {losses[0]}, torch_ref's {losses[1]}")
    seconds = interleaved({"ours": lambda: ours(batch), "torch": lambda: theirs(batch)}, repeats)
    rates = [case.rows * case.length / statistics.median(seconds[side]) for side in SIDES]
    ratio = rates[0] / rates[1]
    question = "train step, speed"
    return Row(question, name(case.lora, case.recompute), *rates, "tokens/s", ratio, f"≥ {GOAL}", ratio >= GOAL)


def memory(kind: dict[str, bool], given: argparse.Namespace) -> Iterator[Row]:
    """Peak memory of both sides, and the stages in which they came to it."""
    command = [sys.executable, __file__, *(["--quick"] if given.quick else []), "--kind", json.dumps(kind)]
    if given.cores:
        command += ["--cores", str(given.cores)]
    theirs = stages([*command, "--side", "torch"], {})
    with tempfile.TemporaryDirectory() as folder:
        cache = {"XDG_CACHE_HOME": folder, "VLM_MINDSPORE_GRAPHS": "on"}
        first = stages([*command, "--side", "ours"], cache)
        if not any(Path(folder).rglob("*.graph")):
            raise SystemExit("error: the first process kept no graph")
        second = stages([*command, "--side", "ours"], cache)
    for kept, ours in enumerate((first, second)):
        case = f"{name(**kind)}{', graph kept' if kept else ''}"
        total = sum(ours.values()), sum(theirs.values())
        ratio = total[1] / total[0]
        goal = {"goal": f"≥ {MEMORY_GOAL}", "met": ratio >= MEMORY_GOAL} if kept else {}
        yield Row("train step, memory", case, *total, "MiB", ratio, **goal)
        for stage, size in ours.items():
            if size >= 1:  # else nothing grew: the peak came before
                yield Row("train step, memory", f"{case}: {stage}", size, theirs[stage], "MiB", theirs[stage] / size)


def stages(command: Sequence[str], environment: Mapping[str, str]) -> dict[str, float]:
    """What a process that runs alone has printed: by how many MiB its peak grew in each stage."""
    environment = {**os.environ, **environment}
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment).stdout
    return json.loads(output.splitlines()[-1])


def run_alone(side: str, case: Case, kind: dict[str, bool]) -> None:
    """Steps of one side; prints by how many MiB the peak of memory grew in each stage, as JSON."""
    build = {"ours": our_step, "torch": torch_step}[side]
    build(Case(Shape(width=128, layers=1, vocab=256, vision_width=64, vision_layers=1), length=128).changed(**kind))
    case = case.changed(**kind)
    batch, peaks = columns(case), [peak()]
    train = build(case)
    peaks.append(peak())
    if side == "ours":
        train.compile(batch)
    peaks.append(peak())
    for _ in range(MEMORY_STEPS):
        train(batch)
    peaks.append(peak())
    print(json.dumps({stage: after - before for stage, before, after in zip(STAGES, peaks, peaks[1:])}))


def peak() -> float:
    """The most memory that this process ever held, in MiB. (ru_maxrss would start with what the parent held.)"""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 2**10


if __name__ == "__main__":
    main()
