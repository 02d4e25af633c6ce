"""A model of a released size, with random weights, answers on this machine as the reference does.

    python benchmarks/full_size.py --family ovis2_5 --size ovis2_5_2b [--layers N] [--length TOKENS] [--work DIR]

A bf16 checkpoint is made shard by shard and converted to MindSpore's layout and back (sha256 equal). A prompt of random
text with an image (Omni: a clip with sound) is answered greedily from the mapped file, which is not in memory at first,
as after a start of the machine. Then the reference in torch fp32 reads prompt and answer from the same file, a layer in
memory at a time, and is compared: every layer's output, and the logits, by the rms of the difference relative to the
reference's rms; and the tokens. Without --keep all is deleted.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from full_size_checkpoint import configuration, digest, make
from harness import machine

from ms_impl import families
from ms_impl.cli.main import command
from ms_impl.errors import InputError
from ms_impl.generate.memory import available

ROOT = Path(__file__).resolve().parents[1]
TOLERANCE = 5e-4  # rms of logits; of fp32 against fp32 about 1e-6 to 1e-5 is left, by the order of sums
LOSS, GRADIENTS = 1e-5, 1e-4  # of a training step: the loss, and rms of each gradient
OWN_MEMORY, FIRST_TOKEN, OF_BANDWIDTH = 3e9, 300.0, 0.8
DISK_BYTES = 1 << 30


@command
def main() -> int:
    """Run, print, and say whether all holds."""
    options = parse()
    if options.show:
        print(*table([json.loads(path.read_text()) for path in options.show]), sep="\n")
        return 0
    if not (options.family and options.size):
        raise InputError("give --family and --size, or --show")
    work = Path(options.work or tempfile.mkdtemp(prefix="full_size_"))
    work.mkdir(parents=True, exist_ok=True)
    if options.training_slice:
        return training_slice(options, work)
    try:
        result = measured(options, work)
    finally:
        if not options.keep:
            shutil.rmtree(work, ignore_errors=True)
    print(json.dumps(result, indent=1))
    if options.json:
        options.json.write_text(json.dumps(result))
    print(*table([result]), sep="\n")
    return 0 if result["equal_bytes"] and result["parity"] else 1


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--family", choices=("qwenvl", "qwen2_5_omni", "ovis2_5"))
    add("--size", help="a directory of configs/FAMILY, such as ovis2_5_2b or tiny")
    add("--layers", type=int, help="at most so many layers in each part of the model; all if left out")
    add("--length", type=int, default=320, help="tokens of the prompt, those of media among them")
    add("--side", type=int, default=224, help="pixels of the image, where the family takes any size")
    add("--tokens", type=int, default=10, help="of the answer")
    add("--dtype", default="bf16", help="of the weights that are loaded")
    add("--work", help="directory for checkpoints and results; some temporary one if left out")
    add("--keep", action="store_true", help="delete nothing")
    add("--json", type=Path, help="write the result here, too")
    add("--show", type=Path, nargs="+", metavar="JSON", help="print the table of results written before, and no more")
    add(
        "--training_slice", action="store_true", help="instead: loss and gradients of --layers (2) layers of full width"
    )
    add("--no_conversion", action="store_true", help="leave out the conversion there and back")
    return parser.parse_args()


def training_slice(options: argparse.Namespace, work: Path) -> int:
    """Compare a training step of a few layers of full width; prints a row."""
    family, checkpoint, out = families.get(options.family), work / "hf", work / "out"
    source = ROOT / "configs" / options.family / options.size / "config.json"
    layers = options.layers or 2
    out.mkdir(parents=True, exist_ok=True)
    try:
        make(checkpoint, family, configuration(family, source, layers))
        told = {name: getattr(options, name) for name in ("family", "length", "side")}
        (out / "options.json").write_text(json.dumps(told | {"checkpoint": str(checkpoint)}))
        for side in ("ours", "reference"):
            child(["benchmarks/full_size_slice.py", side, str(out / "options.json")])
        found = json.loads((out / "slice.json").read_text())
    finally:
        if not options.keep:
            shutil.rmtree(work, ignore_errors=True)
    loss = abs(found["loss"] / found["reference_loss"] - 1)
    worst = max(found["gradients"], key=found["gradients"].__getitem__)
    error = found["gradients"][worst]
    print(f"machine: {machine()}")
    print(f"| {options.size}, {layers} layers of each part | {found['loss']:.6f} | {loss:.1e} (≤ {LOSS:.0e}) | "
          f"{len(found['gradients'])} | {error:.1e} (≤ {GRADIENTS:.0e}): {worst} |")  # fmt: skip
    for name in found["missing"]:
        print(f"no gradient of ours: {name}")
    return 0 if loss <= LOSS and error <= GRADIENTS and not found["missing"] else 1


def measured(options: argparse.Namespace, work: Path) -> dict[str, Any]:
    """All of it, step by step."""
    family = families.get(options.family)
    source = ROOT / "configs" / options.family / options.size / "config.json"
    if not source.is_file():
        raise InputError(f"--size {options.size}: {source} not found")
    checkpoint, out = work / "hf", work / "out"
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    if not (checkpoint / "config.json").exists():
        make(checkpoint, family, configuration(family, source, options.layers))
    size = sum(path.stat().st_size for path in checkpoint.glob("*.safetensors"))
    told = {name: getattr(options, name) for name in ("family", "length", "side", "tokens", "dtype")}
    told |= {"checkpoint": str(checkpoint), "started": time.time()}
    (out / "options.json").write_text(json.dumps(told))
    equal = None if options.no_conversion else converts_back(options.family, checkpoint, work)
    seconds = {}
    leave_memory(checkpoint)
    for side in ("ours", "reference"):
        told["started"] = time.time()
        (out / "options.json").write_text(json.dumps(told))
        child([f"benchmarks/full_size_{side}.py", str(out / "options.json")])
        seconds[side] = time.time() - told["started"]
    fits = size <= available()
    ours, theirs = (json.loads((out / f"{side}.json").read_text()) for side in ("ours", "reference"))
    turns = {name: statistics.median(found) for name, found in ours["turns"].items()}
    parity = ours["tokens"] == theirs["tokens"] and max(theirs["logits"]) <= TOLERANCE
    return {
        "machine": machine(), "family": options.family, "size": options.size, "layers": options.layers,
        "checkpoint_gb": size / 1e9, "dtype": ours["dtype"], "prompt_tokens": ours["length"],
        "equal_bytes": equal is not False, "converted": equal is not None, "parity": parity,
        "tokens_equal": sum(a == b for a, b in zip(ours["tokens"], theirs["tokens"])), "tokens": len(ours["tokens"]),
        "tokens_different": len(set(ours["tokens"])),
        "logits_rms": max(theirs["logits"]),
        "rms_of_layers": theirs["layers"],
        "own_gb": ours["peak"] / 1e9, "load_s": ours["load_s"], "first_token_s": ours["first_token_s"],
        "token_s": turns["step"], "gb_per_s": ours["step_bytes"] / turns["step"] / 1e9,
        "bandwidth_gb_per_s": turns["memory"] if fits else disk_bandwidth(checkpoint),
        "bandwidth_of": "memory" if fits else "disk", "weights_gb_per_s": turns["weights"],
        "reference_s": seconds["reference"],
    }  # fmt: skip


def converts_back(family: str, checkpoint: Path, work: Path) -> bool:
    """Whether the checkpoint is the same, byte for byte, after a conversion to MindSpore's layout and back."""
    there, back = work / "mindspore", work / "back"
    command = ["convert/convert_weight.py", "--model", family]
    child([*command, "--input_path", str(checkpoint), "--output_path", f"{there}/"])
    child([*command, "--input_path", str(there), "--output_path", f"{back}/", "--reverse"])
    shutil.rmtree(there)
    same = digest(checkpoint) == digest(back)
    shutil.rmtree(back)
    return same


def leave_memory(checkpoint: Path) -> None:
    """Let the system forget what it holds of a checkpoint's files: pages of a file just written are small ones."""
    for path in checkpoint.glob("*.safetensors"):
        with open(path, "rb+") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def child(command: list[str]) -> None:
    """Run a command of this repository. Raises SystemExit if it fails."""
    paths = os.pathsep.join([str(ROOT), str(ROOT / "benchmarks")])
    ended = subprocess.run([sys.executable, *command], cwd=ROOT, env=os.environ | {"PYTHONPATH": paths})
    if ended.returncode:
        raise SystemExit(f"error: {command[0]} has ended with {ended.returncode}")


def disk_bandwidth(checkpoint: Path) -> float:
    """GB/s of reading a file that is not in memory."""
    leave_memory(checkpoint)
    path = sorted(checkpoint.glob("*.safetensors"))[0]
    with open(path, "rb", buffering=0) as file:
        start, done, buffer = time.perf_counter(), 0, bytearray(1 << 24)
        while done < DISK_BYTES and (count := file.readinto(buffer)):
            done += count
    return done / (time.perf_counter() - start) / 1e9


HEADER = (
    "model", "checkpoint", "there and back", f"logits, rms (≤ {TOLERANCE:.0e})", "layers: how many, largest rms",
    "tokens equal", f"memory of its own (≤ {OWN_MEMORY / 1e9:.0f} GB)", f"first token (≤ {FIRST_TOKEN:.0f} s)",
    "a token", f"of the bandwidth (≥ {OF_BANDWIDTH})",
)  # fmt: skip


def table(results: Sequence[dict[str, Any]]) -> list[str]:
    """Markdown, a row for each result; the goals stand in its head."""
    lines = [HEADER, ["---"] * len(HEADER), *map(row, results)]
    return [f"| {' | '.join(line)} |" for line in lines]


def row(result: dict[str, Any]) -> list[str]:
    """The cells of one result."""
    share = result["gb_per_s"] / result["bandwidth_gb_per_s"]
    rate = result["weights_gb_per_s"]
    weights = f", {result['gb_per_s'] / rate:.2f} of the weights' {rate:.1f}"
    name = result["size"] + (f", {result['layers']} layers of each part" if result["layers"] else "")
    return [
        name,
        f"{result['checkpoint_gb']:.2f} GB",
        ("equal" if result["equal_bytes"] else "DIFFERS") if result["converted"] else "not run",
        f"{result['logits_rms']:.1e}",
        ", ".join(f"{part} {len(rms)}: {max(rms):.1e}" for part, rms in result["rms_of_layers"].items()),
        f"{result['tokens_equal']} of {result['tokens']}, {result['tokens_different']} different ones",
        f"{result['own_gb']:.2f} GB, {result['prompt_tokens']:,} tokens",
        f"{result['first_token_s']:.0f} s",
        f"{result['token_s']:.2f} s",
        f"{share:.2f} of the {result['bandwidth_of']}'s {result['bandwidth_gb_per_s']:.1f} GB/s" + weights,
    ]


if __name__ == "__main__":
    sys.exit(main())
