"""What every benchmark shares: contestants timed in turn, peak memory of a process, one table, one JSON file.

A benchmark is run as ``python benchmarks/NAME.py`` and imports this file as ``harness``.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from tqdm import tqdm

from ms_impl.io.atomic_write import atomic_write

RESULTS = Path(__file__).resolve().parents[1] / "build/benchmarks"
CPU_INFO, COLUMNS = Path("/proc/cpuinfo"), ("question", "case", "ours", "anchor", "unit", "ratio", "goal", "met")
# Linux starts a child's ru_maxrss with what its parent held at exec; between us and the child stands one that is small.
WATCH = """
import resource, subprocess, sys
status = subprocess.run(sys.argv[2:]).returncode
with open(sys.argv[1], "w") as file:
    file.write(str(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024))
sys.exit(status if status >= 0 else 128 - status)
"""


@dataclass(frozen=True)
class Row:
    """One line of a table: what we and the anchor reached in the same run, in ``unit``, and the goal of their ratio.

    ``ratio`` is ours against the anchor as the goal has it (for speeds ours / anchor, above 1 where we are faster).
    ``goal`` is text ("≥ 1.4"); ``met`` is None where there is no goal.
    """

    question: str
    case: str
    ours: float
    anchor: float
    unit: str
    ratio: float
    goal: str = ""
    met: bool | None = None


class _ProcessorTime(argparse.Action):
    def __call__(self, *_: object) -> None:
        _clock["now"] = time.process_time


_clock = {"now": time.perf_counter}


def arguments(name: str, description: str) -> argparse.ArgumentParser:
    """The options of every benchmark; a script may add its own. ``description`` may be its whole docstring."""
    parser = argparse.ArgumentParser(description=description.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="smaller: a minute or two")
    parser.add_argument("--repeats", type=int, default=5, help="rounds that are timed (5)")
    spent = "take this process's processor time for the time: beside other work, with one thread"
    parser.add_argument("--processor_time", action=_ProcessorTime, nargs=0, help=spent)
    default = RESULTS / f"{name}.json"
    parser.add_argument("--output_path", type=Path, default=default, help=f"JSON (build/benchmarks/{name}.json)")
    return parser


def add_model(parser: argparse.ArgumentParser) -> None:
    """The options that say which model, in which shape."""
    parser.add_argument("--family", default="qwenvl", help="model family (qwenvl)")
    parser.add_argument("--config", type=Path, help="config.json, or its directory (the family's largest in configs/)")


def interleaved(
    contestants: Mapping[str, Callable[[], None]], repeats: int, warm_up: int = 1
) -> dict[str, list[float]]:
    """Seconds that each contestant took in each of ``repeats`` rounds a, b, …, a, b, …; ``warm_up`` rounds go untimed.

    A contestant returns when its work is done (with MindSpore: after ``.asnumpy()``).
    """
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for turn in tqdm(range(-warm_up, repeats), unit="round", leave=False, disable=None):
        for name, run in contestants.items():
            began = _clock["now"]()
            run()
            if turn >= 0:
                seconds[name].append(_clock["now"]() - began)
    return seconds


def peak_memory(command: Sequence[str]) -> int:
    """Peak resident bytes of ``command``, run to its end as a process of its own (of its children: the largest).

    Raises:
        subprocess.CalledProcessError: it failed; what it wrote on stderr has been passed on.
    """
    with tempfile.TemporaryDirectory() as folder:
        peak = Path(folder) / "peak"
        subprocess.run([sys.executable, "-c", WATCH, str(peak), *command], check=True, stdout=subprocess.DEVNULL)
        return int(peak.read_text())


def machine() -> str:
    """The processor's name, the cores this process may use, the memory and the operating system."""
    lines = CPU_INFO.read_text().splitlines() if CPU_INFO.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    name = models[0] if models else platform.machine()
    return f"{name}, {len(os.sched_getaffinity(0))} cores, {memory:.0f} GiB, {platform.system()} {platform.release()}"


def report(name: str, rows: Sequence[Row], arguments: argparse.Namespace) -> None:
    """Print the table under the machine's name, and write it as JSON to ``arguments.output_path``."""
    load = os.getloadavg()[0]
    print(f"{name}: {machine()}; load {load:.1f}{'; --quick' if arguments.quick else ''}\n")
    print("\n".join(table(rows)))
    result = {
        "name": name, "machine": machine(), "load": load, "quick": arguments.quick,
        "threads": os.environ.get("OMP_NUM_THREADS"), "rows": [asdict(row) for row in rows],
    }  # fmt: skip
    arguments.output_path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(arguments.output_path) as partial:
        partial.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def table(rows: Sequence[Row]) -> list[str]:
    """The rows in aligned columns, a heading above them."""
    cells = [COLUMNS, *(written(row) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return ["  ".join(map(str.ljust, line, widths)).rstrip() for line in cells]


def written(row: Row) -> tuple[str, ...]:
    """The cells of a row as text."""
    figures = (f"{row.ours:,.4g}", f"{row.anchor:,.4g}", row.unit, f"{row.ratio:.2f}")
    met = {None: "–", True: "yes", False: "no"}[row.met]
    return (row.question, row.case, *figures, row.goal or "–", met)
