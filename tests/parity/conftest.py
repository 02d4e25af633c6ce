"""The three sides of the comparison: golden vectors, torch_ref and ms_impl."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from floors import Floors
from golden_folder import is_own
from stages import TIMES_FLOOR, Golden, Table


@pytest.fixture(scope="session")
def golden(golden_dir) -> Golden:
    return Golden(golden_dir)


@pytest.fixture(scope="session")
def reference(golden):
    """torch_ref on the golden weights, in eval mode."""
    from torch_ref.qwenvl.model import QwenVL

    return QwenVL.from_pretrained(golden.directory)


@pytest.fixture(scope="session")
def rounded_reference(golden):
    """torch_ref in fp32 on the golden weights rounded to fp16."""
    import torch

    from torch_ref.qwenvl.model import QwenVL

    return QwenVL.from_pretrained(golden.directory, torch.float16).float()


@pytest.fixture(scope="session")
def floors(golden, reference, rounded_reference) -> Floors:
    """What rounding alone does on these vectors."""
    return Floors(golden, reference, rounded_reference)


@pytest.fixture(scope="session")
def table(request) -> Table:
    """Where every row of the session is checked."""
    table = Table(0.0 if is_own(request.config) else TIMES_FLOOR)
    request.config.said["parity: of every stage the row that came closest to what is allowed"] = table.lines
    return table
