"""The shipped tiny model: trained, so that its answers differ, and small, so that it answers in milliseconds."""

from pathlib import Path

import pytest
from running_server import DEMO, TINY, RunningServer


@pytest.fixture(scope="session")
def tiny_chat():
    """Model and template."""
    from ms_impl.generate.load import load

    return load(TINY)


@pytest.fixture(scope="session")
def demo() -> Path:
    """An image file."""
    return DEMO


@pytest.fixture(scope="session")
def allowed(tmp_path_factory, demo) -> Path:
    """A directory whose files may be named, and beside it one whose files may not."""
    directory = tmp_path_factory.mktemp("media")
    (directory / "allowed").mkdir()
    (directory / "allowed/a picture.png").write_bytes(demo.read_bytes())
    (directory / "secret.png").write_bytes(demo.read_bytes())
    (directory / "allowed/link.png").symlink_to(directory / "secret.png")
    (directory / "allowed/text.txt").write_text("no image")
    return directory / "allowed"


@pytest.fixture(scope="session")
def server(tmp_path_factory, allowed):
    running = RunningServer(
        tmp_path_factory.mktemp("server"), "--allowed_media_dir", str(allowed), "--max_batch", "4", "--max_waiting", "12",
        "--max_length", "512", "--max_images", "3", "--max_pixels", "1000000", "--max_body_mb", "1",
    )  # fmt: skip
    yield running
    running.process.kill()
    running.process.wait()
