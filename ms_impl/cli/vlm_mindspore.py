"""The command ``vlm-mindspore``: every command of the project by one name, from a checkout or an installed wheel.

The scripts keep their own paths and arguments; this runs them, wherever they lie.
"""

from __future__ import annotations

import os
import runpy
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version

from ms_impl import families
from ms_impl.cli.custom import load_customs
from ms_impl.cli.main import command
from ms_impl.errors import InputError
from ms_impl.resources import ROOT, resource

_RUN = "run_mindformer.py"

# Command: the script, or the module, that it runs; arguments before the user's; what it does.
_COMMANDS: dict[str, tuple[str, tuple[str, ...], str]] = {
    "chat": ("scripts/chat.py", (), "ask a model about images, videos and sounds"),
    "serve": ("scripts/serve.py", (), "answer requests as OpenAI's API does"),
    "convert": ("convert.convert_weight", (), "Hugging Face's weights to MindSpore's and back"),
    "merge": ("convert.merge_adapter", (), "merge a LoRA adapter into its base"),
    "check": (_RUN, ("--check",), "judge a YAML and read its data through"),
    "train": (_RUN, ("--run_mode", "train"), "train, from random weights"),
    "finetune": (_RUN, ("--run_mode", "finetune"), "train, from a checkpoint"),
    "predict": (_RUN, ("--run_mode", "predict"), "answer prompts"),
    "eval": (_RUN, ("--run_mode", "eval"), "measure a checkpoint on data sets"),
    "swift": ("scripts/swift.py", (), "sft, infer and export with ms-swift's argument names"),
    "launch": ("scripts/msrun_launcher.sh", (), "start a command on several workers with msrun"),
    "supervise": ("scripts/train_supervised.py", (), "train on several workers, restarted until it is done"),
    "plot": ("scripts/plot_run.py", (), "draw the curves of a run"),
}
_INFO = "info"


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns its exit status."""
    name, *arguments = (sys.argv[1:] if argv is None else list(argv)) or ["--help"]
    if name in ("-h", "--help"):
        print(_usage())
    elif name == _INFO:
        load_customs(arguments)
        print(_info())
    elif name in _COMMANDS:
        script, before, _ = _COMMANDS[name]
        _start(script, [*before, *arguments])
    else:
        raise InputError(f"unknown command '{name}'\n\n{_usage()}")
    return 0


def _start(script: str, arguments: list[str]) -> None:
    """Become that script: it ends the process."""
    if script.endswith(".sh"):
        os.execvp("bash", ["bash", str(resource(script)), *arguments])
    if script.endswith(".py"):
        sys.argv = [str(resource(script)), *arguments]
        runpy.run_path(sys.argv[0], run_name="__main__")
    sys.argv = [script, *arguments]
    runpy.run_module(script, run_name="__main__", alter_sys=True)


def _usage() -> str:
    commands = {name: told for name, (_, _, told) in _COMMANDS.items()} | {_INFO: "versions, and where files lie"}
    lines = [f"  {name:<10} {told}" for name, told in commands.items()]
    return "\n".join(["usage: vlm-mindspore COMMAND [ARGUMENTS]; vlm-mindspore COMMAND --help tells more", "", *lines])


def _info() -> str:
    lines = [f"{'models':<14}{', '.join(families.names())}", f"{'files':<14}{ROOT}"]
    for package in ("vlm-mindspore", "mindspore", "mindformers", "transformers", "numpy", "torch"):
        try:
            lines.append(f"{package:<14}{version(package)}")
        except PackageNotFoundError:
            lines.append(f"{package:<14}not installed")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
