"""Clips made for the tests."""

import pytest
from clips import write_clip


@pytest.fixture(scope="session")
def clip(tmp_path_factory):
    """2 s at 25 frames a second with sound; the event is at second 1."""
    return write_clip(tmp_path_factory.mktemp("clips") / "clip.mp4")
