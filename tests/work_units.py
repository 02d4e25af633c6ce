"""How the suite is divided among pytest-xdist's workers (``-n 2 --dist loadscope``).

Tests that share a fixture of the session, a compiled model or a training run, stay together, so that none is made
twice; else a module is a unit. The longest units begin first, so that no worker waits for the other's at the end.
(pytest-xdist 3.8 has groups for that, ``loadgroup``, but pytest 9 does not let it name them.)
"""

from __future__ import annotations

import pytest
from xdist.scheduler import LoadScopeScheduling

# What begins so stays together; of several the first counts.
TOGETHER = (
    "tests/plugin/test_training_of_all",
    "tests/plugin/test_omni_after_training",
    "tests/plugin/test_ovis_after_training",
    "tests/parity/qwen2_5_omni/",
    "tests/parity/ovis2_5/",
    "tests/parity/",
    "tests/evaluate/",
    "tests/serve/",
)
CASES = 3  # the first of them are one unit: runs of the Trainer that all look at
LONGEST = ("plugin", "parity", "evaluate", "serve", "registry", "contract", "test_")


class Units(LoadScopeScheduling):
    """Units in place of modules."""

    def _split_scope(self, nodeid: str) -> str:
        return unit_of(nodeid)


def unit_of(nodeid: str) -> str:
    """The unit of a test."""
    for number, start in enumerate(TOGETHER):
        if nodeid.startswith(start):
            return TOGETHER[0] if number < CASES else start
    return nodeid.split("::")[0]


def place(item: pytest.Item) -> int:
    """Where its unit stands in the queue."""
    path = item.nodeid.removeprefix("tests/")
    return next((place for place, start in enumerate(LONGEST) if path.startswith(start)), len(LONGEST))
