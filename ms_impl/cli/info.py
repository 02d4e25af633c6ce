"""``vlm-mindspore info DIR``: what a checkpoint is and what it needs, read off its headers, without a framework."""

from __future__ import annotations

import argparse
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from ms_impl import families
from ms_impl.cli.custom import add_custom_arguments, chosen_family, load_customs
from ms_impl.estimate.memory import memory
from ms_impl.estimate.parts import Trained, model_parts
from ms_impl.estimate.plan import RunLayout
from ms_impl.families import Family
from ms_impl.io.checkpoint import Checkpoint, open_checkpoint
from ms_impl.io.checkpoint_assets import find_config, is_checkpoint_asset
from ms_impl.io.conversion import check_headers, skipped_parts, weights_of
from ms_impl.io.json_files import read_json
from ms_impl.io.rules import HUGGING_FACE
from ms_impl.resources import ROOT, locate

TOKENS = 2048  # of the row and of the conversation that memory is told for
LORA = {"r": 8, "target_modules": "all-linear"}

_PACKAGES = ("vlm-mindspore", "mindspore", "mindformers", "transformers", "numpy", "torch")
_UNITS = ("bytes", "kB", "MB", "GB", "TB")


def main(arguments: Sequence[str] | None = None) -> int:
    """Print what is known of a checkpoint or, without one, of the installation; the result is the exit status."""
    load_customs(arguments)
    options = _parser().parse_args(arguments)
    lines = _installation() if options.checkpoint is None else _checkpoint(options)
    for name, text in lines:
        print(f"{name:<14}{text}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="What a checkpoint is, and the memory that it needs")
    parser.add_argument(
        "checkpoint", nargs="?", type=locate, metavar="CHECKPOINT",
        help="its directory, or one file; without it versions are told, and where the project's own files are",
    )  # fmt: skip
    parser.add_argument("--config", type=locate, help="directory with config.json, where CHECKPOINT is one file")
    add_custom_arguments(parser)
    return parser


def _installation() -> Iterator[tuple[str, str]]:
    yield "models", ", ".join(families.names())
    yield "files", str(ROOT)
    for package in _PACKAGES:
        try:
            yield package, version(package)
        except PackageNotFoundError:
            yield package, "not installed"


def _checkpoint(options: argparse.Namespace) -> Iterator[tuple[str, str]]:
    """Raises InputError for a checkpoint that is damaged, of no known family, or not of the model it says."""
    config_file = find_config(options.checkpoint, options.config)
    family = chosen_family(options, lambda: families.for_config(read_json(config_file), str(config_file)))
    config = family.resolve("config").from_file(config_file)
    checkpoint = weights_of(open_checkpoint(options.checkpoint), family)
    check_headers(checkpoint, family.resolve("weights").expand(config), checkpoint.layout or HUGGING_FACE)
    yield "checkpoint", str(options.checkpoint)
    yield "family", family.name
    yield "layout", checkpoint.layout or "not told"
    yield "weights", _files(checkpoint)
    yield "dtype", _dtypes(checkpoint)
    yield "parameters", _parameters(checkpoint, family, config)
    for part in skipped_parts(checkpoint.skipped, family.resolve("weights").skipped):
        yield "not built", part
    if beside := _assets(checkpoint.path):
        yield "beside", beside
    yield from _memory(checkpoint, family, config_file)


def _files(checkpoint: Checkpoint) -> str:
    count, size = len(checkpoint.files), sum(file.stat().st_size for file in checkpoint.files)
    first, last = checkpoint.files[0].name, checkpoint.files[-1].name
    return f"{_size(size)} in {first}" if count == 1 else f"{_size(size)} in {count} files, {first} to {last}"


def _dtypes(checkpoint: Checkpoint) -> str:
    counts = Counter(tensor.dtype.name for tensor in checkpoint.tensors.values())
    if len(counts) == 1:
        return next(iter(counts))
    return ", ".join(f"{name} ({count:,} tensors)" for name, count in counts.most_common())


def _parameters(checkpoint: Checkpoint, family: Family, config: Any) -> str:
    shapes: Mapping[str, tuple[int, ...]] = family.resolve("weights").shapes(config, HUGGING_FACE)
    groups: Counter[str] = Counter()
    for name, shape in shapes.items():
        groups[family.group_of(name)] += math.prod(shape)
    each = ", ".join(f"{group} {count:,}" for group, count in groups.items())
    return f"{sum(groups.values()):,} in {len(checkpoint.tensors):,} tensors: {each}"


def _assets(path: Path) -> str:
    """Names of what lies beside the weights and belongs to the model."""
    if not path.is_dir():
        return ""
    return ", ".join(sorted(file.name for file in path.iterdir() if file.is_file() and is_checkpoint_asset(file.name)))


def _memory(checkpoint: Checkpoint, family: Family, config_file: Path) -> Iterator[tuple[str, str]]:
    stored = sum(tensor.nbytes for tensor in checkpoint.tensors.values())
    numbers = sum(tensor.size for tensor in checkpoint.tensors.values())
    answering = f"{_size(stored)} for the weights as they are stored, {_size(4 * numbers)} in fp32"
    if not family.estimate:
        yield "answering", answering
        return
    row = RunLayout(rows=1, length=TOKENS, recompute=True)
    parts = model_parts(family, config_file, row)
    cache = TOKENS * sum(each.part.cached * each.part.layers for each in parts)
    yield "answering", f"{answering}; keys and values of {TOKENS:,} tokens {_size(2 * cache)} in 16 bits"
    adapted = RunLayout(rows=1, length=TOKENS, recompute=True, parameter_bytes=2, lora=LORA)
    lora = model_parts(family, config_file, adapted)
    yield (
        "training",
        f"{_size(memory(parts, row).peak)} of a device for {_trained(parts)} parameters, "
        f"{_size(memory(lora, adapted).peak)} for {_trained(lora)} of LoRA of rank {LORA['r']}: on paper, on Ascend, "
        f"rows of {TOKENS:,} tokens computed in 16 bits, layers recomputed",
    )


def _trained(parts: Sequence[Trained]) -> str:
    return f"{sum(each.trained for each in parts):,}"


def _size(count: float) -> str:
    """Bytes as people say them, in decimal units."""
    power = min(int(math.log10(max(count, 1)) // 3), len(_UNITS) - 1)
    scaled = count / 1000**power
    return f"{scaled:.{0 if power == 0 or scaled >= 100 else 1}f} {_UNITS[power]}"
