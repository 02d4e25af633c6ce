"""The command line of ``run_mindformer.py``: MindFormers' argument names, as changes to the YAML's settings."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from ms_impl.cli import schema
from ms_impl.cli.eval_settings import data_sets, plan_monitor
from ms_impl.cli.schema import Settings, lookup, suggest
from ms_impl.cli.settings import REGISTER_PATH, adapt_to_cpu, check_weights, complete, override, read_yaml
from ms_impl.data.images import resolve_path
from ms_impl.errors import InputError
from ms_impl.resources import locate

RUN_MODES = ("train", "finetune", "eval", "predict", "check")
MODALITIES = ("image", "text")

_TEMPLATE = "train_dataset.modal_to_text_transform.model_transform_template"


def _boolean(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"expected True or False, found {text!r}")
    return text.lower() == "true"


def _boolean_or_name(text: str) -> bool | str:
    return _boolean(text) if text.lower() in ("true", "false") else text


# Argument, the setting it changes, its type, what it says.
_CHANGES = (
    ("--run_mode", "run_mode", str, f"one of {', '.join(RUN_MODES)}"),
    ("--mode", "context.mode", int, "0 for GRAPH_MODE, 1 for PYNATIVE_MODE"),
    ("--device_target", "context.device_target", str, "Ascend or CPU; an Ascend YAML is adapted to CPU"),
    ("--device_id", "context.device_id", int, "which device of this machine"),
    ("--load_checkpoint", "load_checkpoint", str, "weights: a folder, .safetensors or .ckpt"),
    ("--resume_training", "resume_training", _boolean_or_name, "go on from output_dir's newest checkpoint, or NAME"),
    ("--auto_trans_ckpt", "auto_trans_ckpt", _boolean, "cut the weights for the ranks of an Ascend cluster"),
    ("--src_strategy_path_or_dir", "src_strategy_path_or_dir", str, "how load_checkpoint is cut already"),
    ("--transform_process_num", "transform_process_num", int, "processes that cut the weights"),
    ("--only_save_strategy", "only_save_strategy", _boolean, "save how the weights would be cut, and stop"),
    ("--use_parallel", "use_parallel", _boolean, "run as one rank of several (with msrun)"),
    ("--seed", "seed", int, "seed of all random numbers"),
    ("--profile", "profile", _boolean, "write a profile"),
    ("--epochs", "runner_config.epochs", int, "passes over the training data"),
    ("--batch_size", "runner_config.batch_size", int, "conversations of one step of one rank"),
    ("--sink_mode", "runner_config.sink_mode", _boolean, "feed data in the background (Ascend)"),
    ("--num_samples", "train_dataset.data_loader.num_samples", int, "use the first so many conversations"),
    ("--train_dataset_dir", f"{_TEMPLATE}.dataset_dir", str, "folder of the training images"),
    ("--output_dir", "output_dir", str, "folder for checkpoints, losses and logs"),
    ("--predict_batch_size", "predict_batch_size", int, "prompts answered at a time"),
)


def read_settings(argv: Sequence[str] | None = None) -> Settings:
    """The settings of a run, complete and checked. Raises InputError naming the key that is wrong."""
    arguments, rest = _parser().parse_known_args(argv)
    config = locate(arguments.config)
    register_path = locate(arguments.register_path)
    settings = read_yaml(config)
    try:
        override(settings, [*_named(arguments), *_options(arguments.options), *_dotted(rest, settings)])
        _check(settings, register_path)
        if settings["run_mode"] == "predict":
            settings["input_data"] = queries(arguments.predict_data or [], arguments.modal_type)
            _check_images(settings["input_data"])
        complete(settings)
        if settings["run_mode"] == "check":
            return settings
        if settings["run_mode"] == "eval":
            data_sets(settings["eval_dataset"])
        elif settings["run_mode"] != "predict":
            plan_monitor(settings)
        check_weights(settings, schema.family_of(settings))
    except InputError as error:
        raise InputError(f"{config}: {error}") from error
    if lookup(settings, "context.device_target") == "CPU":
        print(*adapt_to_cpu(settings), sep="\n", flush=True)
    settings["register_path"] = str(register_path.resolve())
    settings["config_path"] = str(config.resolve())
    return settings


def queries(data: Sequence[str], modalities: Sequence[str] | None) -> list[list[dict[str, str]]]:
    """Prompts in list format from ``--predict_data`` and ``--modal_type``.

    The modalities are those of one prompt; more data are further prompts of the same pattern. Without modalities each
    datum is a prompt of text.
    """
    pattern = list(modalities or ["text"])
    if unknown := [modality for modality in pattern if modality not in MODALITIES]:
        raise InputError(f"--modal_type: unknown {unknown[0]!r}{suggest(unknown[0], MODALITIES)}")
    if not data or len(data) % len(pattern):
        raise InputError(
            f"--predict_data: {len(data)} items do not fill prompts of --modal_type {' '.join(pattern)}; "
            f"give {len(pattern)} for each prompt"
        )
    starts = range(0, len(data), len(pattern))
    return [[{kind: datum} for kind, datum in zip(pattern, data[start:])] for start in starts]


def _check_images(prompts: list[list[dict[str, str]]]) -> None:
    for path in (element["image"] for prompt in prompts for element in prompt if "image" in element):
        if not resolve_path(path).is_file():
            raise InputError(f"--predict_data: there is no image file '{path}'")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="run_mindformer.py",
        usage="%(prog)s --config YAML [--run_mode train|finetune|eval|predict] [--SETTING VALUE …]",
        description="Train and use this project's models through MindFormers.",
        epilog="Any setting of the YAML can be changed by its dotted name: --lr_schedule.learning_rate 1e-4",
        allow_abbrev=False,
    )
    parser.add_argument("--config", required=True, help="the YAML file")
    parser.add_argument("--register_path", default=REGISTER_PATH, help="folder of the classes that auto_register names")
    parser.add_argument(
        "--check", dest="run_mode", action="store_const", const="check", help="read the training data through, and stop"
    )
    parser.add_argument("--predict_data", nargs="+", help="image files and texts of the prompt or prompts")
    parser.add_argument("--modal_type", nargs="+", help="what each item of one prompt is: image or text")
    parser.add_argument("--options", nargs="+", default=[], metavar="KEY=VALUE", help="settings to change or to add")
    for flag, key, kind, text in _CHANGES:
        metavar = "True|False" if kind is _boolean else flag.strip("-").upper()
        parser.add_argument(flag, dest=key, type=kind, metavar=metavar, help=text)
    return parser


def _named(arguments: argparse.Namespace) -> list[tuple[str, Any]]:
    given = vars(arguments)
    return [(key, given[key]) for _, key, _, _ in _CHANGES if given[key] is not None]


def _options(options: Sequence[str]) -> list[tuple[str, Any]]:
    for option in options:
        if "=" not in option:
            raise InputError(f"--options: expected KEY=VALUE, found {option!r}")
    return [(key, _value(value)) for key, _, value in (option.partition("=") for option in options)]


def _dotted(rest: Sequence[str], settings: Settings) -> list[tuple[str, Any]]:
    """``--section.key value`` or ``--section.key=value``, for keys that the YAML has or that our sections may have."""
    words = [part for word in rest for part in (word.split("=", 1) if word.startswith("--") else [word])]
    changes = []
    for flag, value in zip(words[::2], words[1::2] + [None] * (len(words) % 2)):
        key = flag.removeprefix("--")
        known = key in settings or lookup(settings, key) is not None or lookup(schema.SECTIONS, key) is not None
        if not flag.startswith("--") or not known:
            flags = [*(known for known, *_ in _CHANGES), *(f"--{name}" for name in settings)]
            raise InputError(f"unknown argument {flag}{suggest(flag, flags)}")
        if value is None:
            raise InputError(f"argument {flag} lacks its value")
        changes.append((key, _value(value)))
    return changes


def _value(text: str) -> Any:
    """As YAML reads it, and 1e-4 as a number."""
    try:
        value = yaml.safe_load(text)
        return float(value) if isinstance(value, str) else value
    except yaml.YAMLError as error:
        raise InputError(f"{text!r} is not a YAML value ({' '.join(str(error).split())})") from error
    except ValueError:
        return value


def _check(settings: Settings, register_path: Path) -> None:
    run_mode = settings.get("run_mode")
    if run_mode not in RUN_MODES:
        raise InputError(f"run_mode: {run_mode!r} is not supported{suggest(str(run_mode), RUN_MODES)}")
    if run_mode not in ("train", "check") and not settings.get("load_checkpoint"):
        raise InputError(f"load_checkpoint: run_mode {run_mode} needs weights; only train begins with random ones")
    steps = lookup(settings, "runner_config.gradient_accumulation_steps")
    if steps is not None and (type(steps) is not int or steps < 1):
        raise InputError(f"gradient_accumulation_steps: expected a whole number above 0, found {steps!r}")
    schema.family_of(settings)
    schema.check_sections(settings)
    if not register_path.is_dir():
        raise InputError(f"--register_path: {register_path} is no folder")
    schema.check_references(settings, register_path)
