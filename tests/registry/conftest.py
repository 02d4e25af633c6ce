"""Invariants of every family in the registry: no test in this folder names one.

A family takes part with a small config.json in ``tests/golden/<family>_tiny``. What needs more than the configuration
(a row of a batch equals the row alone, cached equals uncached) takes the fixtures ``family`` and ``tiny_config``, too,
and stands beside these tests, in a file of its own.
"""

import json
from pathlib import Path

import pytest

from ms_impl import families
from ms_impl.families import Family

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.fixture(params=families.names())
def family(request) -> Family:
    return families.get(request.param)


@pytest.fixture
def raw(family) -> dict:
    """A small config.json, parsed."""
    return json.loads((GOLDEN / f"{family.name}_tiny/config.json").read_text())


@pytest.fixture
def tiny_config(family, raw):
    return family.resolve("config").from_dict(raw, "config.json")
