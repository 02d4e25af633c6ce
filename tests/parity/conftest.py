"""The three sides of the comparison: golden vectors, torch_ref and ms_impl."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from stages import TABLE, Golden  # noqa: E402


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
def table():
    return TABLE


def pytest_terminal_summary(terminalreporter):
    if TABLE.worst:
        terminalreporter.section("largest error of every stage")
        for line in TABLE.lines():
            terminalreporter.write_line(line)
