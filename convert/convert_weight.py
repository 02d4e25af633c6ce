"""Convert weights from Hugging Face to MindSpore, or with --reverse to Hugging Face.

    python convert/convert_weight.py --model qwenvl --input_path HF_DIR --output_path qwenvl_ms.ckpt --dtype fp16
    python convert/convert_weight.py --model qwenvl --input_path qwenvl_ms.ckpt --output_path DIR/ \\
        --reverse --config HF_DIR

Parts of a model that are not built here (speech of Qwen2.5-Omni) are skipped; --base puts them back, from a whole
Hugging Face checkpoint, byte for byte:

    python convert/convert_weight.py --model qwen2_5_omni --input_path trained_ms/ --output_path DIR/ \\
        --reverse --base WHOLE_DIR

What MindFormers 1.5 published is read with --source, into either layout:

    python convert/convert_weight.py --model qwenvl --source mindformers-1.5 --input_path qwenvl_base_fp16.ckpt \\
        --output_path qwenvl_ms.ckpt --config configs/qwenvl/qwenvl_9.6b
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

if not __package__:  # run as a file: the repository, not this folder, is where imports begin
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from tqdm import tqdm

from ms_impl import families
from ms_impl.cli.custom import add_custom_arguments, load_customs
from ms_impl.cli.main import command
from ms_impl.errors import InputError, listed
from ms_impl.families import Family
from ms_impl.io.checkpoint import Checkpoint, open_checkpoint
from ms_impl.io.checkpoint_assets import CONFIG_NAME, collect, find_config
from ms_impl.io.conversion import as_hugging_face, cast_to, convert, skipped_parts, weights_of
from ms_impl.io.dtypes import FLOAT_SPELLINGS
from ms_impl.io.json_files import read_json
from ms_impl.io.output import Kind, Output
from ms_impl.io.rules import HUGGING_FACE, MINDSPORE, Config
from ms_impl.io.tensors import CastTensor, CheckpointTensor


@dataclass(frozen=True)
class Job:
    """One conversion, checked and ready to run.

    Attributes:
        layout: of the source.
        skipped: what of the source is not written, a line for each part of the model.
    """

    source: Checkpoint
    layout: str
    tensors: Sequence[CheckpointTensor]
    output: Output
    assets: dict[str, bytes]
    skipped: Sequence[str] = ()

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors as they will be written."""
        return sum(tensor.nbytes for tensor in self.tensors)

    def __str__(self) -> str:
        before = sorted({tensor.dtype.name for tensor in self.source.tensors.values()})
        after = sorted({tensor.dtype.name for tensor in self.tensors})
        return (
            f"{self.source.path} ({self.layout}, {'/'.join(before)}) → "
            f"{self.output.path} ({self.output.layout}, {'/'.join(after)}): {len(self.tensors)} tensors, "
            f"{sum(tensor.size for tensor in self.tensors):,} parameters, {self.nbytes:,} bytes"
        )


@command
def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; the result is its exit status."""
    load_customs(arguments)
    options = _parser().parse_args(arguments)
    try:
        job = prepare(options)
        if options.dry_run:
            print(f"would convert {job}")
            _report_skipped(job)
        else:
            run(job)
    except KeyboardInterrupt:
        raise KeyboardInterrupt("interrupted: nothing was written") from None
    return 0


def prepare(options: argparse.Namespace) -> Job:
    """Open the input, read its headers and check all that can be checked before the first byte is written."""
    target = HUGGING_FACE if options.reverse else MINDSPORE
    family = families.get(options.model)
    output = Output.parse(options.output_path, target)
    source = weights_of(open_checkpoint(options.input_path), family, options.source)
    layout = _source_layout(options, family, source, target)
    base = _base(options, family)
    config_path = find_config(base.path if base else source.path, options.config)
    config = read_config(family, config_path)
    if base:
        _refuse_other_base(family, config, base, source)
    dtype = FLOAT_SPELLINGS[options.dtype] if options.dtype else None
    tensors = _converted(source, layout, target, family, config)
    tensors = [*(cast_to(tensors, dtype) if dtype else tensors), *(base.skipped.values() if base else ())]
    assets = collect(source.path, config_path, dtype, saved_files=family.saved_files)
    skipped = skipped_parts(source.skipped, family.resolve("weights").skipped)
    job = Job(source, layout, tensors, output, assets, skipped)
    output.check(job.nbytes, assets, source, *((base,) if base else ()))
    return job


def _base(options: argparse.Namespace, family: Family) -> Checkpoint | None:
    """The checkpoint that --base names, whose ``skipped`` tensors are what is put back."""
    if options.base is None:
        return None
    if not options.reverse or options.config:
        raise InputError("--base goes with --reverse, and without --config: the base has a config.json of its own")
    base = weights_of(open_checkpoint(options.base), family)
    if not base.path.is_dir():
        raise InputError(f"{base.path}: a single file; --base needs the directory of a whole checkpoint")
    if not base.skipped or base.layout == MINDSPORE:
        patterns = family.resolve("weights").skipped
        parts = f"holds no tensors {' or '.join(patterns)}" if patterns else f"{family.name} has no parts to put back"
        raise InputError(f"{base.path}: {parts}; leave out --base")
    return base


def _refuse_other_base(family: Family, config: Config, base: Checkpoint, source: Checkpoint) -> None:
    """The weights are of the model that the base is, as far as the source's own config.json tells."""
    own = source.path / CONFIG_NAME
    if source.path.is_dir() and own.exists() and not config.same_model(read_config(family, own)):
        raise InputError(f"{own}: describes another model than {base.path / CONFIG_NAME}; give the base it came from")


def _source_layout(options: argparse.Namespace, family: Family, source: Checkpoint, target: str) -> str:
    """What --source says, or else the layout that --reverse leads from; refuses a source that tells another."""
    if options.source:
        return family.source_weights(options.source).layout
    if source.layout == target:
        advice = "leave out" if options.reverse else "add"
        raise InputError(f"{source.path}: already is a {target} checkpoint; {advice} --reverse to convert it")
    return MINDSPORE if options.reverse else HUGGING_FACE


def _converted(source: Checkpoint, layout: str, target: str, family: Family, config: Config) -> list[CheckpointTensor]:
    """The tensors of the source as ``target`` has them; a layout of --source comes by way of Hugging Face's."""
    if layout in family.sources:
        source, layout = as_hugging_face(source, family, config, layout), HUGGING_FACE
    return list(convert(source, family.resolve("weights").expand(config), layout, target))


def run(job: Job, done: str = "converted") -> None:
    """Write the output, show the progress and tell what was ``done`` and what was lost."""
    began = time.perf_counter()
    with tqdm(total=job.nbytes, unit="B", unit_scale=True, disable=None) as bar:
        job.output.write(job.tensors, job.assets, bar.update)
    print(f"{done} {job} in {time.perf_counter() - began:.1f} s")
    _report_skipped(job)
    _report_assets(job)
    _report_losses([tensor for tensor in job.tensors if isinstance(tensor, CastTensor)])


def _report_skipped(job: Job) -> None:
    """The parts of the model that are not built here."""
    for part in job.skipped:
        print(f"note: not converted, as no part of what is trained: {part}; --reverse --base DIR puts them back")


def _report_assets(job: Job) -> None:
    """What of a directory was not taken along, and what a single file lacks."""
    if job.output.kind is not Kind.DIRECTORY:
        print(
            f"note: {job.output.path.name} holds weights alone. To use it, name config.json and vocabulary "
            "(--config DIR; in YAML model.model_config.config_file and tokenizer.vocab_file), or convert to DIR/"
        )
    elif job.source.path.is_dir():
        known = {*job.assets, *(file.name for file in job.source.files)}
        names = {entry.name for entry in job.source.path.iterdir()} - known
        if left := sorted(name for name in names if not name.endswith(".index.json")):
            print(f"note: not taken along, as no part of the model: {listed(left)}")


def read_config(family: Family, path: Path) -> Config:
    """A config.json. Raises InputError where it is damaged or describes a model of another family."""
    raw = read_json(path)
    if family.model_types and not family.matches(raw):  # one without is found by its name alone
        found = families.for_config(raw, str(path))
        raise InputError(f"{path}: describes a model of family '{found.name}', not '{family.name}'")
    return family.resolve("config").from_dict(raw, str(path))


def _report_losses(tensors: Sequence[CastTensor]) -> None:
    """Each tensor with values that became infinite, and in one line those that became zero."""
    for tensor in (tensor for tensor in tensors if tensor.loss.overflow):
        print(
            f"warning: {tensor.name}: {tensor.loss.overflow:,} of {tensor.size:,} values lie outside the range of "
            f"{tensor.dtype} and became infinite",
            file=sys.stderr,
        )
    if vanished := [tensor for tensor in tensors if tensor.loss.underflow]:
        print(
            f"note: {sum(tensor.loss.underflow for tensor in vanished):,} values in {len(vanished)} of "
            f"{len(tensors)} tensors are too small for {vanished[0].dtype} and became zero",
            file=sys.stderr,
        )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--model", "--model_type", required=True, help=f"model family: {', '.join(families.names())}")
    add("--input_path", required=True, help="checkpoint directory, or one .safetensors, .bin or .ckpt file")
    add("--output_path", required=True, help="X.ckpt, X.safetensors, or DIR/ for shards and all that goes with them")
    add("--dtype", choices=sorted(FLOAT_SPELLINGS), help="element type to write; that of the input if left out")
    add("--reverse", action="store_true", help="from MindSpore to Hugging Face")
    add("--source", help=f"layout of the input, if it is neither of these two: {', '.join(families.sources())}")
    add(
        "--base", type=Path, help="a whole Hugging Face checkpoint, whose parts that are not built here are written too"
    )
    add("--config", type=Path, help="config.json, or its directory, if it is not in the input directory")
    add("--dry_run", action="store_true", help="check names, shapes and free space; write nothing")
    add_custom_arguments(parser, chooses_family=False)
    return parser


if __name__ == "__main__":
    sys.exit(main())
