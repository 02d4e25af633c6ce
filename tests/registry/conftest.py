"""Invariants of every family in the registry, and of one from outside: no test in this folder names one of ours.

A family takes part with a small config.json in ``tests/golden/<family>_tiny``.
"""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from ms_impl import families
from ms_impl.families import Family
from ms_impl.register import load_custom

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples/custom_register/my_vlm.py"
_from_outside: dict[str, Family] = {}


@pytest.fixture(params=[*families.names(), EXAMPLE.stem])
def family(request) -> Iterator[Family]:
    """Each family; the one from outside is registered for the time being."""
    if request.param != EXAMPLE.stem:
        yield families.get(request.param)
        return
    if not _from_outside:
        load_custom(EXAMPLE)
        _from_outside[EXAMPLE.stem] = families.get(EXAMPLE.stem)
    yield families.register(_from_outside[EXAMPLE.stem])
    del families.all_families()[EXAMPLE.stem]


@pytest.fixture
def raw(family, tmp_path) -> dict:
    """A small config.json, parsed."""
    folder = ROOT / f"tests/golden/{family.name}_tiny"
    if family.name == EXAMPLE.stem:
        folder = tmp_path / "example"
        __import__(EXAMPLE.stem).make_checkpoint(folder)
    return json.loads((folder / "config.json").read_text())


@pytest.fixture
def tiny_config(family, raw):
    return family.resolve("config").from_dict(raw, "config.json")
