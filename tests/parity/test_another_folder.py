"""On vectors with more layers and larger weights the suite tells rounding from faults, by the floors it measures."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from floors import Floors
from golden_folder import is_own
from make_golden import make
from mindspore_side import MindSporeSide
from stages import FP16, TIMES_FLOOR, Golden, Table
from test_mindspore_against_torch import test_padded_batch as check_padded_batch
from test_negative_controls import exchanged_resampler_kv, swapped_gate, unpermuted_in_proj

from torch_ref.qwenvl.model import QwenVL


@pytest.fixture(scope="module")
def other(tmp_path_factory) -> Golden:
    folder = tmp_path_factory.mktemp("vectors") / "other"
    make(folder, layers=3, scale=4.0, seed=1)
    return Golden(folder)


@pytest.fixture(scope="module")
def references(other):
    """torch_ref in fp32, with the weights and with those that are rounded to fp16."""
    return QwenVL.from_pretrained(other.directory), QwenVL.from_pretrained(other.directory, torch.float16).float()


@pytest.fixture(scope="module")
def other_floors(other, references):
    return Floors(other, *references)


def rows(other: Golden, references, other_floors: Floors, dtype: str, alter=lambda weights: weights) -> Table:
    """The rows of the batch with images; fails as the suite does."""
    table, side = Table(TIMES_FLOOR), MindSporeSide(other.directory, "pynative", dtype, alter)
    check_padded_batch(other, side, references[side.half], table, other_floors)
    return table


@pytest.mark.parametrize("dtype", ["fp32", "fp16"])
def test_rounding_passes(other, references, other_floors, dtype):
    found = rows(other, references, other_floors, dtype).worst.values()
    assert found and all(row.floor > 0 for row in found)
    assert dtype == "fp32" or max(row.error for row in found) > FP16, "a fixed tolerance would do, too"


@pytest.mark.parametrize(
    "dtype, alter", [("fp32", unpermuted_in_proj), ("fp16", swapped_gate), ("fp16", exchanged_resampler_kv)]
)
def test_faults_are_noticed_by_far(other, references, other_floors, dtype, alter):
    with pytest.raises(AssertionError, match="error .* is above") as failed:
        rows(other, references, other_floors, dtype, partial(alter, config=other.config))
    error, allowed = (float(word) for word in str(failed.value).split("error ")[1].split()[0:4:3])
    assert error > 3 * allowed


def test_on_the_vectors_of_this_repository_no_tolerance_is_larger(table, request):
    if not is_own(request.config):
        pytest.skip("--golden names other vectors")
    table.check("own vectors", "allowed", 1.0, 1.0, tolerance=1e-5, floor=1e-3)
    assert table.worst.pop(("own vectors", "allowed")).allowed == 1e-5
