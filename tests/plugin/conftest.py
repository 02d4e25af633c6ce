"""Runs of the Trainer that several modules look at: see ``training_cases``."""

from __future__ import annotations

from pathlib import Path

import pytest
from training_cases import CASES, CaseRuns

UNPACKED = "train_dataset.packing=False"


@pytest.fixture(scope="session", params=CASES)
def runs(request, tmp_path_factory) -> CaseRuns:
    """The model, records and runs of a family."""
    return CASES[request.param].make(tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="session")
def trained(runs) -> Path:
    """The output of one process: steps of four rows, one group frozen."""
    frozen = [f"model.model_config.{key}=True" for key in runs.case.frozen]
    ran = runs.run(runs.root / "whole", UNPACKED, *frozen)
    assert ran.returncode == 0, ran.stderr
    return runs.root / "whole"


@pytest.fixture(scope="session")
def adapted(runs) -> Path:
    """The output of the released size's YAML: LoRA everywhere, towers too, on packed rows, with layers recomputed."""
    ran = runs.packed_lora(runs.root / "lora")
    assert ran.returncode == 0, ran.stderr
    return runs.root / "lora"
