"""The fixture ``fuzz``, and the table of what came out, at the end of a run."""

import pytest
from fuzz_harness import Limits, table
from fuzz_harness import fuzz as run_cases

IN_CI = 100  # cases a surface: some seconds in all
FIRST_SEED = 20261125
SHOWN = 5

_outcomes = []


@pytest.fixture
def fuzz(request):
    """Fuzz a surface: ``fuzz(name, make, run, seconds=10, megabytes=1000, share=1.0)``.

    ``share`` of the cases are run where one takes long.
    """
    cases = request.config.getoption("--fuzz") or IN_CI
    first_seed = request.config.getoption("--fuzz-seed")
    first_seed = FIRST_SEED if first_seed is None else first_seed

    def run(surface, make, run, seconds=10, megabytes=1000, share=1.0):
        count = max(1, round(cases * share))
        outcome = run_cases(surface, make, run, count, first_seed, Limits(seconds, megabytes))
        _outcomes.append(outcome)
        shown = "\n\n".join(f"--fuzz-seed {seed}: {text}" for seed, text in outcome.faults[:SHOWN])
        assert not outcome.faults, f"{surface}: {len(outcome.faults)} of {outcome.cases} cases are faults\n{shown}"

    return run


def pytest_terminal_summary(terminalreporter):
    if _outcomes:
        terminalreporter.section("fuzzing")
        terminalreporter.write_line(table(_outcomes))
