"""docs/parity.md names the test of each requirement, and each test that it names is there."""

import re
from pathlib import Path

TESTS = Path(__file__).parent
PAGE = (TESTS.parent / "docs/parity.md").read_text(encoding="utf-8")
ROWS = re.findall(r"^\| ((?:[VOE]\d+(?:, )?)+) \|.*\| (.*) \|$", PAGE, re.MULTILINE)
LAST = (("V", 24), ("O", 22), ("E", 11))
REQUIREMENTS = {f"{letter}{number}" for letter, last in LAST for number in range(1, last + 1)}
OF_A_SHIPPED_MODEL = {"test_ovis_shipped": TESTS.parent / "assets/ovis2_5_tiny"}  # it comes with its model


def test_every_requirement_has_a_row_with_tests():
    named = [requirement for requirements, _ in ROWS for requirement in requirements.split(", ")]
    assert sorted(named) == sorted(REQUIREMENTS)
    assert all("::" in tests for _, tests in ROWS)


def test_every_test_that_is_named_is_there():
    files = {path.stem: path for path in TESTS.rglob("test_*.py")}
    for stem, test in re.findall(r"`(test_\w+)::(test_\w+)`", "".join(tests for _, tests in ROWS)):
        if stem in OF_A_SHIPPED_MODEL and not OF_A_SHIPPED_MODEL[stem].is_dir():
            continue
        assert stem in files, stem
        assert re.search(rf"^def {test}\(", files[stem].read_text(encoding="utf-8"), re.MULTILINE), f"{stem}::{test}"
