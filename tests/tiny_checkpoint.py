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
