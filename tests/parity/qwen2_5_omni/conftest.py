"""The three sides of the thinker's comparison: golden vectors, transformers and ms_impl."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "contract"))
sys.path.insert(0, str(Path(__file__).parent))

from golden_folder import golden_folder
from omni_floors import OmniFloors
from omni_reference import Reference
from omni_side import OmniSide
from omni_vectors import OmniVectors, Row


@pytest.fixture(autouse=True)
def one_thread():
    """For models this small torch's second thread costs more than it gives, twenty times as much on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def vectors(request) -> OmniVectors:
    return OmniVectors(golden_folder(request.config, "qwen2_5_omni"))


@pytest.fixture(scope="session")
def original(vectors) -> Reference:
    """transformers on the golden weights."""
    return Reference(vectors)


@pytest.fixture(scope="session")
def omni_floors(vectors, original) -> OmniFloors:
    return OmniFloors(vectors, original)


@pytest.fixture(scope="session")
def graph(vectors) -> OmniSide:
    """ms_impl in fp32, its forward graph compiled once for every test of the session."""
    return OmniSide(vectors, "graph")


@pytest.fixture(scope="session")
def pynative(vectors) -> OmniSide:
    return OmniSide(vectors, "pynative")


@pytest.fixture(scope="session")
def kernels(vectors) -> OmniSide:
    """The same by kernels."""
    return OmniSide(vectors, "kernels")


@pytest.fixture(scope="session", params=["graph", "pynative", "kernels"])
def side(request) -> OmniSide:
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="session")
def training_rows(vectors, original) -> list[Row]:
    """The rows of the training case, with the original's positions."""
    positions, _ = original.positions("train")
    return [replace(row, positions=positions[:, i]) for i, row in enumerate(vectors.case_rows("train"))]
