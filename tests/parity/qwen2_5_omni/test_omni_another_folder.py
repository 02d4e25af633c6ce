"""On vectors of other sizes and larger weights the suite tells rounding from faults, by the floors it measures."""

from __future__ import annotations

import pytest
from make_omni_golden import make
from omni_floors import OmniFloors
from omni_reference import Reference
from omni_side import OmniSide
from omni_stages import ACTIVATION, cases_of
from omni_vectors import OmniVectors
from stages import TIMES_FLOOR, Table
from test_omni_model import check_case

STAGE = "O10 mixed batch, padded left"


@pytest.fixture(scope="module")
def other(tmp_path_factory) -> OmniVectors:
    folder = tmp_path_factory.mktemp("vectors") / "other"
    make(folder, scale=3.0, seed=1)
    return OmniVectors(folder)


@pytest.fixture(scope="module")
def other_floors(other) -> OmniFloors:
    return OmniFloors(other, Reference(other))


def rows(other: OmniVectors, floors: OmniFloors, side: OmniSide) -> Table:
    """The rows of a batch of all media, as the suite checks them."""
    table = Table(TIMES_FLOOR)
    check_case(other, floors.reference, floors, table, side, STAGE, cases_of(other, STAGE)[0])
    return table


def test_rounding_passes(other, other_floors):
    found = rows(other, other_floors, OmniSide(other, "pynative")).worst.values()
    assert found and all(row.floor > 0 for row in found)
    assert max(row.allowed for row in found) > ACTIVATION, "a fixed tolerance would do, too"


def test_faults_are_noticed_by_far(other, other_floors):
    def without_a_bias(weights: dict) -> dict:
        return {name: array * 0 if name == "visual.blocks.1.attn.v.bias" else array for name, array in weights.items()}

    with pytest.raises(AssertionError, match="error .* is above") as failed:
        rows(other, other_floors, OmniSide(other, "pynative", alter=without_a_bias))
    error, allowed = (float(word) for word in str(failed.value).split("error ")[1].split()[0:4:3])
    assert error > 3 * allowed
