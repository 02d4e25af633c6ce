"""How fast ``convert/convert_weight.py`` is against ``cp``: every element type, both directions; and its peak memory.

    python benchmarks/convert_speed.py [--work_dir DIR] [--fraction 1] [--dtypes bf16 fp16 fp32]

Makes a bf16 checkpoint of random weights in a model's full shape (``--family``; Qwen-VL: 19.3 GB in 10 shards;
``--quick``: a 24th of its layers and vocabulary), drops it from the page cache before every turn, and counts the bytes
written per second, until they are on the disk, for ``cp`` as for the conversion. Conversions that would leave less than
15 GB of the disk free are left out, and said to be. Everything made is removed.
"""

from __future__ import annotations

import shutil
import statistics
import subprocess
import sys
import tempfile
from argparse import ArgumentParser, Namespace
from functools import partial
from pathlib import Path

from harness import Row, add_model, arguments, interleaved, peak_memory, report
from random_checkpoint import ROOT, drop_from_cache, files_of, full_size, make_checkpoint, remove, size_of

from ms_impl import families
from ms_impl.io.dtypes import BF16, FLOATS

QUICK, SMALL = 1 / 24, 1 / 48  # of the full size
SPARED_BYTES = 15e9
CHECK_SECONDS, PEAK_BYTES = 5.0, 2.5e9  # the goals


def main() -> None:
    """Make the checkpoint, convert it there and back, and report."""
    options = parser().parse_args()
    with tempfile.TemporaryDirectory(prefix="convert_speed_", dir=options.work_dir) as folder:
        report("convert_speed", measure(Path(folder), options), options)


def parser() -> ArgumentParser:
    """The options."""
    parser = arguments("convert_speed", __doc__)
    add_model(parser)
    parser.add_argument("--work_dir", type=Path, help="on the disk to be measured (the system's temporary directory)")
    parser.add_argument("--fraction", type=float, help="of the full size (1; with --quick a 24th)")
    parser.add_argument("--dtypes", nargs="+", choices=FLOATS, default=list(FLOATS), help="element types to write")
    return parser


def measure(work: Path, options: Namespace) -> list[Row]:
    """All rows; the checkpoint exists in one layout at a time, so that there is room for the output."""
    hugging_face, mindspore, small = work / "hugging_face", work / "mindspore.ckpt", work / "small"
    family = families.get(options.family)
    config_file = full_size(family, options.config)
    make_checkpoint(hugging_face, options.fraction or (QUICK if options.quick else 1), family, config_file)
    make_checkpoint(small, SMALL, family, config_file)
    shutil.copy(hugging_face / "config.json", work)  # for the way back
    rows = [check_row(hugging_face, options), *speed_rows("to .ckpt", hugging_face, work / "out.ckpt", options)]
    rows += memory_rows(hugging_face, small, options)
    subprocess.run(command(options, hugging_face, mindspore), check=True, stdout=subprocess.DEVNULL)
    remove(hugging_face)
    return rows + speed_rows("to Hugging Face", mindspore, work / "out", options)


def command(options: Namespace, source: Path, target: Path, *more: str) -> list[str]:
    """The conversion's command line, in the direction that ``source`` calls for."""
    if source.suffix == ".ckpt":
        more = (*more, "--reverse", "--config", str(source.parent))
    paths = ["--input_path", str(source), "--output_path", str(target)]
    return [sys.executable, str(ROOT / "convert/convert_weight.py"), "--model", options.family, *paths, *more]


def speed_rows(case: str, source: Path, target: Path, options: Namespace) -> list[Row]:
    """Gigabytes written per second by conversions into each type, against ``cp`` of the source."""
    written = {"cp": size_of(source)}
    runs = {"cp": partial(copy, source, target)}
    for name in options.dtypes:
        nbytes = size_of(source) * FLOATS[name].itemsize // BF16.itemsize
        if shutil.disk_usage(target.parent).free - nbytes < SPARED_BYTES:
            print(f"left out: {case}, {name}: no room for {nbytes / 1e9:.1f} GB on the disk", file=sys.stderr)
            continue
        written[name], runs[name] = nbytes, partial(convert, options, source, target, name)
    seconds = {name: statistics.median(times) for name, times in interleaved(runs, options.repeats, warm_up=0).items()}
    remove(target)
    speeds = {name: written[name] / seconds[name] / 1e9 for name in runs}
    copying = speeds.pop("cp")
    ratios = {name: speed / copying for name, speed in speeds.items()}
    return [
        Row("conversion", f"bf16 {case}, {name}", speeds[name], copying, "GB/s", ratio, "≥ 0.8", ratio >= 0.8)
        for name, ratio in ratios.items()
    ]


def copy(source: Path, target: Path) -> None:
    """The anchor: ``cp``, and wait for the disk, as the conversion does."""
    remove(target)
    drop_from_cache(source)
    subprocess.run(["cp", "-r", str(source), str(target)], check=True)
    subprocess.run(["sync", *map(str, files_of(target))], check=True)


def convert(options: Namespace, source: Path, target: Path, dtype: str) -> None:
    """One conversion."""
    remove(target)
    drop_from_cache(source)
    subprocess.run(command(options, source, target, "--dtype", dtype), check=True, stdout=subprocess.DEVNULL)


def check_row(source: Path, options: Namespace) -> Row:
    """Seconds of ``--dry_run`` with nothing of the source in the page cache, against the five that it may take."""

    dry_run = command(options, source, source.with_name("none.ckpt"), "--dry_run")

    def check() -> None:
        drop_from_cache(source)
        subprocess.run(dry_run, check=True, stdout=subprocess.DEVNULL)

    seconds = statistics.median(interleaved({"check": check}, repeats=3)["check"])
    case, ratio = f"--dry_run of {size_of(source) / 1e9:.1f} GB; anchor: the limit", seconds / CHECK_SECONDS
    return Row("conversion", case, seconds, CHECK_SECONDS, "s", ratio, "≤ 1", ratio <= 1)


def memory_rows(source: Path, small: Path, options: Namespace) -> list[Row]:
    """Peak memory of the conversion that casts, against the limit and against that of a small checkpoint."""
    peaks = {}
    for path in (source, small):
        target = path.with_name("out.ckpt")
        peaks[path] = peak_memory(command(options, path, target, "--dtype", "fp16"))
        remove(target)
    peak, sizes = peaks[source], [size_of(path) / 1e9 for path in (source, small)]
    cases = {
        f"peak memory at {sizes[0]:.1f} GB; anchor: the limit": (PEAK_BYTES, 1.0),
        f"the same; anchor: at {sizes[1]:.1f} GB": (peaks[small], 1.1),
    }
    return [
        Row("conversion", case, peak / 1e6, anchor / 1e6, "MB", peak / anchor, f"≤ {limit:g}", peak <= limit * anchor)
        for case, (anchor, limit) in cases.items()
    ]


if __name__ == "__main__":
    main()
