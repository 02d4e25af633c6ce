"""How the suite is divided among pytest-xdist's workers (``-n 2 --dist loadgroup``).

Tests that share a fixture of the session, a compiled model or a training run, stay together, so that none is made
twice; else a module is a unit. The longest units begin first, so that no worker waits for the other's at the end.
"""

from __future__ import annotations

import pytest

LONGEST = (
    "plugin",
    "parity/qwen2_5_omni",
    "parity/ovis2_5",
    "parity",
    "evaluate",
    "serve",
    "registry",
    "contract",
    "test_",
)


def arrange(items: list[pytest.Item]) -> None:
    """Name the unit of every test, and put the longest first."""
    for item in items:
        item.add_marker(pytest.mark.xdist_group(unit_of(item)))
    items.sort(key=_place)


def unit_of(item: pytest.Item) -> str:
    """The innermost directory whose conftest.py has a session's fixture that the test uses, or the test's module."""
    module = item.nodeid.split("::")[0]
    fixtures = [known[-1] for known in item._fixtureinfo.name2fixturedefs.values()]
    shared = [fixture.baseid for fixture in fixtures if fixture.scope == "session" and fixture.baseid != module]
    deepest = max(shared, key=len, default="")
    return deepest if deepest.count("/") else module


def _place(item: pytest.Item) -> int:
    path = item.nodeid.removeprefix("tests/")
    return next((place for place, start in enumerate(LONGEST) if path.startswith(start)), len(LONGEST))
