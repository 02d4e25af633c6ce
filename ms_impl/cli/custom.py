"""``--custom_register_path``, ``--model_type`` and ``--template``: families from outside, on every command."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ms_impl import families
from ms_impl.families import Family
from ms_impl.register import load_custom, use_template

FLAG = "--custom_register_path"


def add_custom_arguments(parser: argparse.ArgumentParser, chooses_family: bool = True) -> None:
    """Let a command take them; ``chooses_family``: --model_type and --template, too."""
    parser.add_argument(FLAG, nargs="+", default=[], metavar="FILE", help="Python files that register families")
    if chooses_family:
        parser.add_argument("--model_type", help="the family, where the configuration does not say or another is meant")
        parser.add_argument("--template", help="another template for it: a registered one, or a family's")


def load_customs(argv: Sequence[str] | None = None) -> None:
    """Run the files that a command line names, before it is read as a whole: help then lists what they register."""
    early = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    early.add_argument(FLAG, nargs="+", default=[])
    for path in early.parse_known_args(argv)[0].custom_register_path:
        load_custom(path)


def chosen_family(arguments: argparse.Namespace, found: Callable[[], Family]) -> Family:
    """The family that --model_type names, or else the one that is ``found``; with the template that --template names.

    Raises InputError for a name that is not known.
    """
    family = families.get(arguments.model_type) if arguments.model_type else found()
    return use_template(family, arguments.template) if arguments.template else family


def family_name(arguments: argparse.Namespace, checkpoint: Path, config: Path | None) -> str | None:
    """The family of a checkpoint that --model_type and --template ask for; None where neither is given."""
    if not arguments.model_type and not arguments.template:
        return None
    from ms_impl.io.checkpoint_assets import find_config
    from ms_impl.io.json_files import read_json

    config_file = find_config(checkpoint, config)
    return chosen_family(arguments, lambda: families.for_config(read_json(config_file), str(config_file))).name


def choose_family(settings: dict[str, Any], arguments: argparse.Namespace) -> None:
    """Have the settings ask for the family that the command line names, whatever classes the YAML has."""
    if not arguments.model_type and not arguments.template:
        return
    from ms_impl.cli.schema import family_of, lookup  # numpy, which commands that take Ctrl-C import later

    family = chosen_family(arguments, lambda: family_of(settings))
    for key, name in family.class_names.items():
        if isinstance(section := lookup(settings, key), dict):
            section["type"] = name
            section.pop("auto_register", None)
