"""The harness of the benchmarks: turns, peak memory, tables."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))
from harness import Row, arguments, interleaved, machine, peak_memory, report

MIB = 2**20


def test_contestants_take_turns_and_warm_up_is_not_counted():
    calls = []
    contestants = {"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}
    seconds = interleaved(contestants, repeats=3, warm_up=2)
    assert calls == ["a", "b"] * 5
    assert {name: len(times) for name, times in seconds.items()} == {"a": 3, "b": 3}


def test_it_measures_each_contestant_alone():
    seconds = interleaved({"slow": lambda: time.sleep(0.05), "none": lambda: None}, repeats=2)
    assert min(seconds["slow"]) >= 0.05 > max(seconds["none"])


def peak_of(size: int, *, in_child: bool = False) -> int:
    code = f"x = b'x' * {size}"
    if in_child:
        code = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {code!r}], check=True)"
    return peak_memory([sys.executable, "-c", code])


@pytest.mark.parametrize("in_child", [False, True])
def test_peak_memory_is_that_of_the_command(in_child):
    ballast = b"x" * (300 * MIB)  # held by this process, and not to be counted
    small, large = peak_of(0, in_child=in_child), peak_of(100 * MIB, in_child=in_child)
    assert small < 100 * MIB < len(ballast)
    assert large - small == pytest.approx(100 * MIB, rel=0.05)


def test_a_command_that_fails_has_no_peak():
    with pytest.raises(subprocess.CalledProcessError):
        peak_memory([sys.executable, "-c", "raise SystemExit(3)"])


def test_the_report_is_a_table_and_a_file(tmp_path, capsys):
    options = arguments("sample", "A sample.\n\nMore.").parse_args(
        ["--quick", "--output_path", str(tmp_path / "new/sample.json")]
    )
    rows = [Row("decode", "batch 1", 31.5, 21, "tokens/s", 1.5, "≥ 1.4", True), Row("check", "", 2, 4, "s", 0.5)]
    report("sample", rows, options)
    printed = capsys.readouterr().out
    assert machine() in printed.splitlines()[0] and "--quick" in printed.splitlines()[0]
    assert " ".join(printed.splitlines()[3].split()) == "decode batch 1 31.5 21 tokens/s 1.50 ≥ 1.4 yes"
    written = json.loads((tmp_path / "new/sample.json").read_text(encoding="utf-8"))
    assert written["rows"][0]["ratio"] == 1.5 and written["rows"][1]["met"] is None
    assert written["machine"] == machine() and written["quick"] is True
