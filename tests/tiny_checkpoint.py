"""The tiny Qwen-VL as a checkpoint, and the conversion command run on it."""

import shutil
from pathlib import Path

import pytest

from convert.convert_weight import main
from ms_impl.io.tensors import ArrayTensor


@pytest.fixture
def in_memory():
    """Make a tensor of a name, an array and an element type."""
    return ArrayTensor


GOLDEN = Path(__file__).parent / "golden/qwenvl_tiny"


@pytest.fixture
def tiny(tmp_path) -> Path:
    """The tiny Qwen-VL as a Hugging Face directory, with a vocabulary beside it."""
    directory = tmp_path / "tiny"
    directory.mkdir()
    for name in ("config.json", "model.safetensors"):
        shutil.copy(GOLDEN / name, directory)
    (directory / "qwen.tiktoken").write_text("IQ== 0\n")
    return directory


@pytest.fixture
def convert_weight(capsys):
    """Run the command for Qwen-VL; returns its exit status and what it wrote to the two streams."""

    def run(*arguments, model: str = "qwenvl"):
        status = main(["--model", model, *map(str, arguments)])
        streams = capsys.readouterr()
        return status, streams.out, streams.err

    return run


@pytest.fixture
def snapshot(tiny, tmp_path) -> Path:
    """The tiny checkpoint as a Hugging Face hub cache has it: a directory of links to files that hashes name."""
    cache = tmp_path / "models--tiny"
    blobs, snapshot = cache / "blobs", cache / "snapshots/0123"
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for number, file in enumerate(sorted(tiny.iterdir())):
        file.rename(blobs / f"{number:040x}")
        (snapshot / file.name).symlink_to(f"../../blobs/{number:040x}")
    return snapshot
