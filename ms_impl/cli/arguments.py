"""The command line of ``run_mindformer.py``: MindFormers' argument names, as changes to the YAML's settings."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ms_impl.cli import schema
from ms_impl.cli.custom import add_custom_arguments, choose_family, load_customs
from ms_impl.cli.dry_run import dry_run, scale
from ms_impl.cli.judge import judge
from ms_impl.cli.keys import settings_schema
from ms_impl.cli.kinds import Section, dotted_keys, find, suggest
from ms_impl.cli.options import options_of
from ms_impl.cli.prompts import Prompt, queries, with_files
from ms_impl.cli.schema import Settings, lookup
from ms_impl.cli.settings import REGISTER_PATH, adapt_to_cpu, check_weights, complete, override, require_weights
from ms_impl.cli.training_plan import read_plan
from ms_impl.cli.yaml_reader import parse, read_yaml
from ms_impl.errors import InputError, listed, quote
from ms_impl.resources import locate

RUN_MODES = ("train", "finetune", "eval", "predict")

_TEMPLATE = "train_dataset.modal_to_text_transform.model_transform_template"


def _boolean(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"expected True or False, found {quote(text)}")
    return text.lower() == "true"


def _whole(text: str) -> int:
    try:
        return int(text if len(text) <= 40 else "")
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected a whole number, found {quote(text)}") from None


def _boolean_or_name(text: str) -> bool | str:
    return _boolean(text) if text.lower() in ("true", "false") else text


# Argument, the setting it changes, its type, what it says.
_CHANGES = (
    ("--run_mode", "run_mode", str, f"one of {', '.join(RUN_MODES)}"),
    ("--mode", "context.mode", _whole, "0 for GRAPH_MODE, 1 for PYNATIVE_MODE"),
    ("--device_target", "context.device_target", str, "Ascend or CPU; an Ascend YAML is adapted to CPU"),
    ("--device_id", "context.device_id", _whole, "which device of this machine"),
    ("--load_checkpoint", "load_checkpoint", str, "weights: a directory, .safetensors or .ckpt"),
    (
        "--resume_training",
        "resume_training",
        _boolean_or_name,
        "resume from output_dir's newest checkpoint, or from NAME",
    ),
    ("--auto_trans_ckpt", "auto_trans_ckpt", _boolean, "cut the weights for the ranks of an Ascend cluster"),
    ("--src_strategy_path_or_dir", "src_strategy_path_or_dir", str, "how load_checkpoint is cut already"),
    ("--transform_process_num", "transform_process_num", _whole, "processes that cut the weights"),
    ("--only_save_strategy", "only_save_strategy", _boolean, "save how the weights would be cut, and stop"),
    ("--use_parallel", "use_parallel", _boolean, "run as one rank of several (with msrun)"),
    ("--seed", "seed", _whole, "seed of all random numbers"),
    ("--profile", "profile", _boolean, "write a profile"),
    ("--epochs", "runner_config.epochs", _whole, "passes over the training data"),
    ("--batch_size", "runner_config.batch_size", _whole, "conversations of one step of one rank"),
    ("--sink_mode", "runner_config.sink_mode", _boolean, "feed data in the background (Ascend)"),
    ("--num_samples", "train_dataset.data_loader.num_samples", _whole, "use the first so many conversations"),
    ("--train_dataset_dir", f"{_TEMPLATE}.dataset_dir", str, "directory of the training images"),
    ("--output_dir", "output_dir", str, "directory for checkpoints, losses and logs"),
    ("--predict_batch_size", "predict_batch_size", _whole, "prompts answered at a time"),
)


def read_settings(argv: Sequence[str] | None = None) -> Settings:
    """The settings of a run, complete and checked. Raises InputError naming the key that is wrong."""
    load_customs(argv)
    arguments, rest = _parser().parse_known_args(argv)
    config, register_path = locate(arguments.config), locate(arguments.register_path)
    settings = read_yaml(config)
    try:
        _check(settings, arguments, rest, register_path)
        require_weights(settings)
        if settings["run_mode"] == "predict":
            settings["input_data"] = _prompts(arguments, settings)
        complete(settings)
        read_plan(settings)
        check_weights(settings, schema.family_of(settings))
    except InputError as error:
        raise InputError(f"{config}: {error}") from error
    if lookup(settings, "context.device_target") == "CPU":
        for line in adapt_to_cpu(settings):
            print(line, flush=True)
    settings["register_path"] = str(register_path.resolve())
    settings["config_path"] = str(config.resolve())
    return settings


def judged(argv: Sequence[str] | None = None) -> int | None:
    """With ``--check`` or ``--dry_run`` the exit status of that, and without them None.

    Keys and values are judged here; what follows them in ``judge`` and ``dry_run``.
    """
    arguments, rest = _parser().parse_known_args(argv)
    if arguments.ranks is not None and not arguments.dry_run:
        raise InputError("--ranks: belongs to --dry_run; msrun starts the ranks of a run")
    if not arguments.check and not arguments.dry_run:
        return None
    load_customs(argv)
    settings = _settings_to_judge(arguments, rest)
    if arguments.check:
        return judge(settings)
    try:
        return dry_run(settings)
    except InputError as error:
        raise InputError(f"{settings['config_path']}: {error}") from error


def _settings_to_judge(arguments: argparse.Namespace, rest: Sequence[str]) -> Settings:
    config, register_path = locate(arguments.config), locate(arguments.register_path)
    settings = read_yaml(config)
    try:
        _check(settings, arguments, rest, register_path)
        if arguments.ranks is not None:
            scale(settings, arguments.ranks)
            schema.check_settings(settings)
        if arguments.predict_data:
            _prompts(arguments, settings)
    except InputError as error:
        raise InputError(f"{config}: {error}") from error
    settings["config_path"] = str(config)
    return settings


def _prompts(arguments: argparse.Namespace, settings: Settings) -> list[Prompt]:
    """The prompts of the command line, of media that the model takes and that are there."""
    takes = schema.family_of(settings).resolve("template").takes
    return with_files(queries(arguments.predict_data or [], arguments.modal_type, takes))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        usage="%(prog)s --config YAML [--run_mode train|finetune|eval|predict] [--check|--dry_run] [--SETTING VALUE …]",
        description="Train and use this project's models through MindFormers.",
        epilog="Any setting of the YAML can be changed by its dotted name: --lr_schedule.learning_rate 1e-4",
        allow_abbrev=False,
    )
    parser.add_argument("--config", required=True, help="the YAML file")
    parser.add_argument(
        "--register_path", default=REGISTER_PATH, help="directory of the classes that auto_register names"
    )
    parser.add_argument(
        "--check", action="store_true", help="judge settings, checkpoint and data without a device, and stop"
    )
    parser.add_argument(
        "--dry_run", action="store_true", help="say what the run would take, without weights, data or a device"
    )
    parser.add_argument("--ranks", type=_whole, metavar="N", help="of a dry run, in place of the YAML's: 8, 16, …")
    parser.add_argument("--predict_data", nargs="+", help="files of media and texts of the prompt or prompts")
    parser.add_argument(
        "--modal_type",
        nargs="+",
        help="what each item of one prompt is: image, video, audio or text, as the model takes them",
    )
    parser.add_argument("--options", nargs="+", default=[], metavar="KEY=VALUE", help="settings to change or to add")
    add_custom_arguments(parser)
    for flag, key, kind, text in _CHANGES:
        metavar = "True|False" if kind is _boolean else flag.strip("-").upper()
        parser.add_argument(flag, dest=key, type=kind, metavar=metavar, help=text)
    return parser


def _named(arguments: argparse.Namespace) -> list[tuple[str, Any]]:
    given = vars(arguments)
    return [(key, given[key]) for _, key, _, _ in _CHANGES if given[key] is not None]


def _dotted(rest: Sequence[str], settings: Settings) -> Iterator[tuple[str, Any]]:
    """``--section.key value`` or ``--section.key=value``, for every key that a YAML may have or that this one has."""
    known = settings_schema(schema.family_of(settings)) if rest else Section({})
    words = [part for word in rest for part in (word.split("=", 1) if word.startswith("--") else [word])]
    for flag, value in zip(words[::2], words[1::2] + [None] * (len(words) % 2)):
        key = flag.removeprefix("--")
        if not flag.startswith("--") or (find(known, key) is None and lookup(settings, key) is None):
            flags = [*(name for name, *_ in _CHANGES), *(f"--{name}" for name in dotted_keys(known))]
            near = suggest(flag, flags)
            raise InputError(f"unknown argument {listed([flag])}{near if 'mean' in near else ''}")
        if value is None:
            raise InputError(f"argument {flag} needs a value")
        yield key, parse(value, flag)


def _check(settings: Settings, arguments: argparse.Namespace, rest: Sequence[str], register_path: Path) -> None:
    """Change the settings as the command line says, and check all keys and values. Prints what has no effect."""
    override(settings, [*_named(arguments), *options_of(arguments.options), *_dotted(rest, settings)])
    schema.drop_empty(settings)
    choose_family(settings, arguments)
    run_mode = settings.get("run_mode")
    if run_mode not in RUN_MODES:
        raise InputError(f"run_mode: {quote(run_mode)} is not supported{suggest(run_mode, RUN_MODES)}")
    idle = schema.check_settings(settings)
    schema.family_of(settings)
    if idle:
        print(f"no effect: {', '.join(idle)}", flush=True)
    if not register_path.is_dir():
        raise InputError(f"--register_path: {register_path} is not a directory")
    schema.check_references(settings, register_path)
