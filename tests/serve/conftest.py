"""The shipped tiny model: trained, so that its answers differ, and small, so that it answers in milliseconds."""

from pathlib import Path

import pytest

TINY = Path(__file__).parents[2] / "assets/qwenvl_tiny_easyvqa"
DEMO = Path(__file__).parents[2] / "assets/demo.png"


@pytest.fixture(scope="session")
def tiny_chat():
    """Model and template."""
    from ms_impl.generate.load import load

    return load(TINY)


@pytest.fixture(scope="session")
def demo() -> Path:
    """An image file."""
    return DEMO
