"""The command ``vlm-mindspore``: every command of the project by one name, from a checkout or an installed wheel.

The scripts keep their own paths and arguments; this calls their ``main``, wherever they lie.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType

from ms_impl.cli.main import command
from ms_impl.errors import InputError, quote
from ms_impl.resources import resource

NAME = "vlm-mindspore"

_RUN = "run_mindformer.py"
_EXAMPLES = "scripts/examples.txt"  # each works as it stands, after those above it
_WHERE = f"example (in a checkout, or in the directory that {NAME} info names):"


@dataclass(frozen=True)
class Command:
    """What is started, and what that does.

    ``script``: a file or a module, whose ``main`` is called after ``before`` is put before the user's arguments, or a
    shell script.
    """

    script: str
    told: str
    before: tuple[str, ...] = ()


COMMANDS = {
    "chat": Command("scripts/chat.py", "ask a model about images, videos and sounds"),
    "serve": Command("scripts/serve.py", "answer requests as OpenAI's API does"),
    "web": Command("scripts/web_demo.py", "ask a model in a browser"),
    "convert": Command("convert.convert_weight", "Hugging Face's weights to MindSpore's and back"),
    "merge": Command("convert.merge_adapter", "merge a LoRA adapter into its base"),
    "check": Command(_RUN, "judge a YAML and read its data through", ("--check",)),
    "train": Command(_RUN, "train, from random weights", ("--run_mode", "train")),
    "finetune": Command(_RUN, "train, from a checkpoint", ("--run_mode", "finetune")),
    "predict": Command(_RUN, "answer prompts", ("--run_mode", "predict")),
    "eval": Command(_RUN, "measure a checkpoint on data sets", ("--run_mode", "eval")),
    "swift": Command("scripts/swift.py", "sft, infer, export and deploy with ms-swift's argument names"),
    "launch": Command("scripts/msrun_launcher.sh", "start a command on several workers with msrun"),
    "supervise": Command("scripts/train_supervised.py", "train on several workers, restarted until it is done"),
    "plot": Command("scripts/plot_run.py", "draw the curves of a run"),
    "info": Command("ms_impl.cli.info", "what a checkpoint is and needs; without one, versions"),
}


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns its exit status."""
    name, *arguments = (sys.argv[1:] if argv is None else list(argv)) or ["--help"]
    if name in ("-h", "--help"):
        print(_usage())
        return 0
    if name not in COMMANDS:
        raise InputError(f"unknown command {quote(name)}\n\n{_usage()}")
    if {"-h", "--help"} & set(arguments):
        print("\n  ".join([_WHERE, *examples(name)]), end="\n\n", flush=True)
    return _start(name, COMMANDS[name], arguments)


def examples(name: str) -> list[str]:
    """Command lines of that command, with the small models and images that come along."""
    lines = resource(_EXAMPLES).read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line.startswith(f"{NAME} {name} ")]


def _start(name: str, chosen: Command, arguments: list[str]) -> int:
    """Become that command: its usage has this one's name."""
    if chosen.script.endswith(".sh"):
        os.execvp("bash", ["bash", str(resource(chosen.script)), *arguments])
    module = _module(name, chosen.script)
    sys.argv = [f"{NAME} {name}", *chosen.before, *arguments]
    return module.main()


def _module(name: str, script: str) -> ModuleType:
    """A script, or a module, whose own examples then say ``vlm-mindspore``."""
    if script.endswith(".py"):
        spec = importlib.util.spec_from_file_location(f"vlm_mindspore_{name}", resource(script))
        assert spec and spec.loader
        module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    else:
        module = importlib.import_module(script)
        script = f"{script.replace('.', '/')}.py"
    module.__doc__ = (module.__doc__ or "").replace(f"python {script}", f"{NAME} {name}")
    return module


def _usage() -> str:
    lines = [f"  {name:<10} {each.told}" for name, each in COMMANDS.items()]
    return "\n".join([f"usage: {NAME} COMMAND [ARGUMENTS]; {NAME} COMMAND --help has an example", "", *lines])


if __name__ == "__main__":
    sys.exit(main())
