"""The mean of two checkpoints of one model in Hugging Face's layout: often better on what neither was trained on.

python scripts/small_models/average_weights.py --input_path build/before build/after --output_path build/model
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

from ms_impl.cli.main import command
from ms_impl.errors import InputError
from ms_impl.io.atomic_write import atomic_write

WEIGHTS = "model.safetensors"


def average(first: Path, second: Path, output: Path) -> None:
    """Write ``second`` with the mean of both, in its own dtype. Raises InputError where the two have other tensors."""
    one, other = load_file(first / WEIGHTS), load_file(second / WEIGHTS)
    if {name: value.shape for name, value in one.items()} != {name: value.shape for name, value in other.items()}:
        raise InputError(f"{first} and {second} are not of one model: their tensors differ in name or shape")
    mean = {name: ((one[name].astype(np.float32) + value) / 2).astype(value.dtype) for name, value in other.items()}
    with atomic_write(output) as folder:
        shutil.copytree(second, folder)
        save_file(mean, folder / WEIGHTS, {"format": "pt"})


@command
def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; the result is its exit status."""
    parser = argparse.ArgumentParser(description="The mean of two checkpoints of one model")
    parser.add_argument("--input_path", type=Path, nargs=2, required=True, help="two directories")
    parser.add_argument("--output_path", type=Path, required=True, help="directory to make, like the second")
    options = parser.parse_args(arguments)
    average(*options.input_path, options.output_path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
