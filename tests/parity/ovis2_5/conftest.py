"""The three sides of the comparison for Ovis2.5: golden vectors, torch_ref and ms_impl."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from golden_folder import golden_folder
from ovis_reference import OvisFloors, Reference
from ovis_vectors import OvisVectors


@pytest.fixture(scope="session")
def golden(request) -> OvisVectors:
    return OvisVectors(golden_folder(request.config, "ovis2_5"))


@pytest.fixture(scope="session")
def reference(golden) -> Reference:
    """torch_ref on the golden weights."""
    from torch_ref.ovis2_5.model import Ovis2_5

    return Reference(Ovis2_5.from_pretrained(golden.folder))


@pytest.fixture(scope="session")
def rounded_reference(golden) -> Reference:
    """torch_ref in fp32 on the golden weights rounded to fp16."""
    import torch

    from torch_ref.ovis2_5.model import Ovis2_5

    return Reference(Ovis2_5.from_pretrained(golden.folder, torch.float16).float())


@pytest.fixture(scope="session")
def floors(golden, reference, rounded_reference) -> OvisFloors:
    """What rounding alone does on these vectors."""
    return OvisFloors(golden, reference.model, rounded_reference.model)
