"""Merge a LoRA adapter in PEFT's format into its base: a Hugging Face checkpoint that needs no adapter.

python convert/merge_adapter.py --model qwenvl --input_path BASE --adapter DIR --output_path OUT/
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

if not __package__:  # run as a file: the repository, not this folder, is where imports begin
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from convert.convert_weight import Job, read_config, run
from ms_impl import families
from ms_impl.adapters import files
from ms_impl.adapters.merging import merged_checkpoint
from ms_impl.cli.custom import add_custom_arguments, load_customs
from ms_impl.cli.main import command
from ms_impl.data import trained_options
from ms_impl.io.checkpoint import open_checkpoint
from ms_impl.io.checkpoint_assets import chat_format_of, collect, find_config
from ms_impl.io.conversion import weights_of
from ms_impl.io.dtypes import FLOAT_SPELLINGS
from ms_impl.io.json_files import read_bytes
from ms_impl.io.output import Output
from ms_impl.io.rules import HUGGING_FACE


@command
def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; the result is its exit status."""
    load_customs(arguments)
    options = _parser().parse_args(arguments)
    try:
        run(prepare(options), f"merged {options.adapter} into")
    except KeyboardInterrupt:
        raise KeyboardInterrupt("interrupted: nothing was written") from None
    return 0


def prepare(options: argparse.Namespace) -> Job:
    """Open the base and the adapter, read their headers and check all that can be checked before writing."""
    family = families.get(options.model)
    output = Output.parse(options.output_path, HUGGING_FACE)
    adapter = files.read(options.adapter, family)
    source = weights_of(open_checkpoint(options.input_path), family)
    config_path = find_config(source.path, options.config)
    config = read_config(family, config_path)
    dtype = FLOAT_SPELLINGS[options.dtype] if options.dtype else None
    merged = merged_checkpoint(source, adapter, family, config, dtype)
    chat_format = chat_format_of(adapter.directory)
    assets = collect(source.path, config_path, dtype, chat_format, saved_files=family.saved_files)
    if (told := Path(adapter.directory) / trained_options.NAME).is_file():
        assets[trained_options.NAME] = read_bytes(told)
    tensors = [*merged.tensors.values(), *source.skipped.values()]  # parts that are not built here stay as they are
    job = Job(source, source.layout or HUGGING_FACE, tensors, output, assets)
    output.check(job.nbytes, assets, source)
    return job


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--model", "--model_type", required=True, help=f"model family: {', '.join(families.names())}")
    add("--input_path", required=True, help="the base: a checkpoint directory, or one .safetensors, .bin or .ckpt file")
    add("--adapter", required=True, help="directory with adapter_config.json and adapter_model.safetensors or .bin")
    add("--output_path", required=True, help="DIR/ for shards and all that goes with them, or X.safetensors")
    add("--dtype", choices=sorted(FLOAT_SPELLINGS), help="element type to write; that of the base if left out")
    add("--config", type=Path, help="config.json, or its directory, if it is not in the base's directory")
    add_custom_arguments(parser, chooses_family=False)
    return parser


if __name__ == "__main__":
    sys.exit(main())
