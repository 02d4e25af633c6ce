"""Run every benchmark of this folder, print the whole table, and put it into benchmarks/README.md when asked.

    python benchmarks/run_all.py [--quick] [--write_readme]

A script that fails does not stop the others; the exit status is then 1. --write_readme alone reads the last results.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from harness import COLUMNS, RESULTS, Row, table, written

from ms_impl.io.atomic_write import atomic_write

FOLDER = Path(__file__).resolve().parent
README = FOLDER / "README.md"
BEGIN, END = "<!-- results: written by run_all.py -->", "<!-- end of results -->"
QUICK = ("--quick", "--repeats", "3")
OTHERS = ("harness", "run_all")  # import the harness's report, or have it, and are no benchmarks


def main() -> int:
    """The command; 1 if a benchmark failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="each smaller; all in ten minutes")
    parser.add_argument("--write_readme", action="store_true", help="put the last results into README.md; run nothing")
    options = parser.parse_args()
    if options.write_readme:
        write_readme(results())
        return 0
    failed = [script.name for script in scripts() if not succeeds(script, options.quick)]
    print("\n".join(["", *table([Row(**row) for result in results() for row in result["rows"]])]))
    if failed:
        print(f"\nfailed: {', '.join(failed)}", file=sys.stderr)
    return bool(failed)


def scripts() -> list[Path]:
    """Every benchmark: a file of this folder that reports by the harness."""
    found = (path for path in sorted(FOLDER.glob("*.py")) if path.stem not in OTHERS)
    return [path for path in found if "report(" in path.read_text(encoding="utf-8")]


def succeeds(script: Path, quick: bool) -> bool:
    """Run one, and say so."""
    began = time.perf_counter()
    print(f"== {script.name}", flush=True)
    status = subprocess.run([sys.executable, str(script), *(QUICK if quick else [])]).returncode
    print(f"{'done' if status == 0 else f'FAILED with status {status}'} in {time.perf_counter() - began:.0f} s\n")
    return status == 0


def results() -> list[dict]:
    """The last result of each benchmark, as ``harness.report`` wrote them."""
    files = (RESULTS / f"{script.stem}.json" for script in scripts())
    return [json.loads(file.read_text(encoding="utf-8")) for file in files if file.exists()]


def write_readme(found: Sequence[dict]) -> None:
    """Replace what stands between the markers of README.md by the results."""
    text = README.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    after = rest.partition(END)[2]
    with atomic_write(README) as partial:
        partial.write_text(before + BEGIN + "\n" + markdown(found) + END + after, encoding="utf-8")


def markdown(found: Sequence[dict]) -> str:
    """The results as a table, under the machines that they were measured on."""
    machines = {result["machine"] + (" (--quick)" if result["quick"] else "") for result in found}
    loads = [result["load"] for result in found]
    span = f"load {min(loads, default=0):.1f} to {max(loads, default=0):.1f}"
    lines = [f"Measured on {'; '.join(sorted(machines))}; {span}."]
    lines += ["", _line(COLUMNS), _line(["---"] * len(COLUMNS))]
    lines += [_line(written(Row(**row))) for result in found for row in result["rows"]]
    return "\n".join(lines) + "\n"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    sys.exit(main())
