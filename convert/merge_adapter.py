"""Merge a LoRA adapter in PEFT's format into its base: a Hugging Face checkpoint that needs no adapter.

python convert/merge_adapter.py --model qwenvl --input_path BASE --adapter DIR --output_path OUT/
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

if not __package__:  # run as a file: the repository, not this folder, is where imports begin
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from convert.convert_weight import Job, check_family, run
from ms_impl import families
from ms_impl.adapters import base_check, files
from ms_impl.adapters.files import AdapterFiles
from ms_impl.adapters.merging import MergedTensor
from ms_impl.adapters.targets import FACTOR_A, FACTOR_B, Plan, make_plan
from ms_impl.cli.main import command
from ms_impl.families import Family
from ms_impl.io.checkpoint import open_checkpoint
from ms_impl.io.checkpoint_assets import collect, find_config
from ms_impl.io.conversion import convert, refuse_source
from ms_impl.io.dtypes import FLOAT_SPELLINGS, CastLoss, DType
from ms_impl.io.json_files import read_json
from ms_impl.io.output import Output
from ms_impl.io.rules import Layout
from ms_impl.io.tensors import CastTensor, Tensor


@command
def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; the result is its exit status."""
    options = _parser().parse_args(arguments)
    try:
        run(prepare(options), f"merged {options.adapter} into")
    except KeyboardInterrupt:
        raise KeyboardInterrupt("interrupted: nothing was written") from None
    return 0


def prepare(options: argparse.Namespace) -> Job:
    """Open the base and the adapter, read their headers and check all that can be checked before writing."""
    family = families.get(options.model)
    output = Output.parse(options.output_path, Layout.HUGGING_FACE)
    adapter = files.read(options.adapter)
    source = open_checkpoint(options.input_path)
    refuse_source(source, family)
    config_path = find_config(source.path, options.config)
    raw = read_json(config_path)
    check_family(family, raw, config_path)
    entries = family.resolve("weights").expand(family.resolve("config").from_dict(raw, str(config_path)))
    layout = source.layout or Layout.HUGGING_FACE
    tensors = {tensor.name: tensor for tensor in convert(source, entries, layout, Layout.HUGGING_FACE)}
    plan = _plan(adapter, tensors, family)
    base_check.check(adapter.base, tensors, str(adapter), str(source.path))
    dtype = FLOAT_SPELLINGS[options.dtype] if options.dtype else None
    merged = [_merged(tensor, adapter, plan, dtype) for tensor in tensors.values()]
    job = Job(source, layout, merged, output, collect(config_path, raw, dtype))
    output.check(source, job.nbytes)
    return job


def _plan(adapter: AdapterFiles, tensors: Mapping[str, Tensor], family: Family) -> Plan:
    """What the adapter changes; raises InputError unless its tensors are just those that this takes."""
    shapes = {name: tensor.shape for name, tensor in tensors.items()}
    matrices = [name.removesuffix(".weight") for name in shapes if name.endswith(".weight") and len(shapes[name]) == 2]
    plan = make_plan(adapter.config, family, shapes, matrices)
    adapter.check(plan.shapes)
    return plan


def _merged(tensor: Tensor, adapter: AdapterFiles, plan: Plan, dtype: DType | None) -> Tensor:
    """A tensor of the output: of the base, the same with its update, or the adapter's own in its place."""
    module = tensor.name.removesuffix(".weight")
    if tensor.name in plan.whole:
        result: Tensor = adapter.tensors[tensor.name]
    elif module in plan.adapted:
        a, b = adapter.tensors[module + FACTOR_A], adapter.tensors[module + FACTOR_B]
        result = MergedTensor(tensor, a, b, adapter.config.scaling)
    else:
        result = tensor
    target = dtype or tensor.dtype
    return result if result.dtype == target else CastTensor(result, target, CastLoss())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--model", required=True, help=f"model family: {', '.join(families.names())}")
    add("--input_path", required=True, help="the base: a checkpoint directory, or one .safetensors, .bin or .ckpt file")
    add("--adapter", required=True, help="directory with adapter_config.json and adapter_model.safetensors")
    add("--output_path", required=True, help="DIR/ for shards and all that goes with them, or X.safetensors")
    add("--dtype", choices=sorted(FLOAT_SPELLINGS), help="element type to write; that of the base if left out")
    add("--config", type=Path, help="config.json, or its directory, if it is not in the base's directory")
    return parser


if __name__ == "__main__":
    sys.exit(main())
