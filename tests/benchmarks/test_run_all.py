"""Running every benchmark: one that fails, and the table in the README."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))
import run_all
from harness import Row

WORKS = """
import sys
sys.path.insert(0, {benchmarks!r})
from harness import Row, arguments, report
options = arguments("works", "Works.").parse_args(["--output_path", {output!r}, *sys.argv[1:]])
report("works", [Row("speed", "small" if options.quick else "large", 3, 2, "tokens/s", 1.5)], options)
"""


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """A folder of benchmarks in place of the repository's: one that fails, one that works, one that is none."""
    benchmarks, output = str(run_all.FOLDER), str(tmp_path / "works.json")
    (tmp_path / "works.py").write_text(WORKS.format(benchmarks=benchmarks, output=output))
    (tmp_path / "fails.py").write_text("raise SystemExit('it cannot report()')")
    (tmp_path / "helper.py").write_text("raise SystemExit('no benchmark')")
    (tmp_path / "README.md").write_text(f"before\n{run_all.BEGIN}\nold\n{run_all.END}\nafter\n")
    monkeypatch.setattr(run_all, "FOLDER", tmp_path)
    monkeypatch.setattr(run_all, "RESULTS", tmp_path)
    monkeypatch.setattr(run_all, "README", tmp_path / "README.md")
    return tmp_path


def test_one_that_fails_stops_no_other(folder, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["run_all.py", "--quick"])
    assert run_all.main() == 1
    printed = capsys.readouterr()
    assert "speed     small  3     2       tokens/s  1.50" in printed.out
    assert "failed: fails.py" in printed.err
    assert json.loads((folder / "works.json").read_text())["quick"] is True


def test_the_last_results_go_into_the_readme(folder, monkeypatch):
    result = {"machine": "a machine", "quick": False, "load": 0.5, "rows": [asdict(Row("q", "c", 1, 2, "s", 0.5))]}
    (folder / "works.json").write_text(json.dumps(result))
    monkeypatch.setattr(sys, "argv", ["run_all.py", "--write_readme"])
    for _ in range(2):  # the second time it replaces its own
        assert run_all.main() == 0
        text = (folder / "README.md").read_text()
        assert text.startswith("before\n") and text.endswith("\nafter\n") and "old" not in text
        assert text.count("| q | c | 1 | 2 | s | 0.50 | – | – |") == 1 and "a machine; load 0.5" in text
