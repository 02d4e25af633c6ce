"""How fast a converted checkpoint gets into the model, against reading its file; and the peak memory of it.

    python benchmarks/load_speed.py [--work_dir DIR]

bf16 weights, random, in a model's widths (``--family``) with an eighth of its layers and vocabulary (``--quick``: a
32nd). A turn begins with nothing of the file in the page cache, and ends when every weight has been in memory: of those
that are the mapped file, every page is touched. The anchor reads the file into new memory. Peak memory is that of a
process that loads, less that of one that only imports the same.
"""

from __future__ import annotations

import argparse
import ctypes
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from harness import Row, add_model, arguments, interleaved, peak_memory, report
from random_checkpoint import ROOT, drop_from_cache, full_size, make_checkpoint, remove

from ms_impl import families
from ms_impl.io.dtypes import BF16, FLOATS

if TYPE_CHECKING:
    from mindspore import Parameter

FULL, QUICK = 1 / 8, 1 / 32  # of the released model's size
PAGE_BYTES = 4096
FILES = ("mindspore.ckpt", "mindspore.safetensors")
SPEED_GOAL, MEMORY_GOAL = 1.3, 1.1


def main() -> None:
    """Report; as a child process, load once for the memory it takes."""
    parser = arguments("load_speed", __doc__)
    add_model(parser)
    parser.add_argument("--work_dir", type=Path, help="on the disk to be measured (the system's temporary directory)")
    parser.add_argument("--load", nargs=2, metavar=("PATH", "DTYPE"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.load:
        path = Path(options.load[0])
        return loader(path.parent, options.load[1], options.family)(path)
    with tempfile.TemporaryDirectory(prefix="load_speed_", dir=options.work_dir) as folder:
        report("load_speed", measure(Path(folder), options), options)


def measure(work: Path, options: argparse.Namespace) -> list[Row]:
    """All rows: each file into a model of each type."""
    family = families.get(options.family)
    fraction, config_file = QUICK if options.quick else FULL, full_size(family, options.config)
    make_checkpoint(work / "hugging_face", fraction, family, config_file)
    (work / "config.json").write_bytes((work / "hugging_face/config.json").read_bytes())
    convert = [sys.executable, str(ROOT / "convert/convert_weight.py"), "--model", family.name, "--input_path"]
    for name in FILES:
        command = [*convert, str(work / "hugging_face"), "--output_path", str(work / name)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    remove(work / "hugging_face")
    imports = peak_memory([sys.executable, "-c", f"import ms_impl.weights, {family.model.partition(':')[0]}"])
    rows = []
    for path in (work / name for name in FILES):
        for dtype in FLOATS:
            rows += [speed_row(path, dtype, options), memory_row(path, dtype, imports, family.name)]
    return rows


def speed_row(path: Path, dtype: str, options: argparse.Namespace) -> Row:
    """Seconds to load a file into a model of ``dtype``, against those to read it."""
    runs = {"load": partial(cold, loader(path.parent, dtype, options.family), path), "read": partial(cold, read, path)}
    seconds = {name: statistics.median(times) for name, times in interleaved(runs, options.repeats).items()}
    ratio = seconds["load"] / seconds["read"]
    return Row("loading", case(path, dtype), *seconds.values(), "s", ratio, f"≤ {SPEED_GOAL}", ratio <= SPEED_GOAL)


def memory_row(path: Path, dtype: str, imports: int, family: str) -> Row:
    """Peak bytes of loading, beyond those of the imports, against the bytes of the weights in ``dtype``."""
    peak = peak_memory([sys.executable, __file__, "--family", family, "--load", str(path), dtype]) - imports
    weights = path.stat().st_size * FLOATS[dtype].itemsize // BF16.itemsize
    ratio = peak / weights
    goal = f"≤ {MEMORY_GOAL}"
    return Row("loading, memory", case(path, dtype), peak / 1e6, weights / 1e6, "MB", ratio, goal, ratio <= MEMORY_GOAL)


def case(path: Path, dtype: str) -> str:
    """A case as the table has it."""
    return f"{path.stat().st_size / 1e9:.1f} GB {path.suffix}, bf16 into {dtype}"


def loader(config: Path, dtype: str, family_name: str) -> Callable[[Path], None]:
    """What loads a file into a model of ``dtype`` and touches every page of its weights."""
    import mindspore as ms
    from mindspore.nn.utils import no_init_parameters

    from ms_impl.weights import load_weights

    types = {"fp32": ms.float32, "fp16": ms.float16, "bf16": ms.bfloat16}
    family = families.get(family_name)
    with no_init_parameters():
        model = family.resolve("model")(family.resolve("config").from_file(config), ms.float32, types[dtype])

    def load(path: Path) -> None:
        load_weights(model, path, family)
        for parameter in model.get_parameters():
            memory_of(parameter)[::PAGE_BYTES].max()

    return load


def memory_of(parameter: Parameter) -> np.ndarray:
    """Its bytes where they lie (``asnumpy`` copies bf16)."""
    held = ctypes.c_uint8 * (parameter.size * parameter.itemsize)
    return np.frombuffer(held.from_address(parameter.data_ptr()), np.uint8)


def read(path: Path) -> None:
    """The anchor."""
    np.fromfile(path, np.uint8)


def cold(run: Callable[[Path], None], path: Path) -> None:
    """One turn."""
    drop_from_cache(path)
    run(path)


if __name__ == "__main__":
    main()
