"""Ask a model about images, videos and audios, once or in a conversation; boxes and times in its answers are drawn.

    python scripts/chat.py --model DIR --image photo.png "What is in the picture?"
    python scripts/chat.py --model DIR --image photo.png --draw boxed.png "Frame the shape in the picture."
    python scripts/chat.py --model DIR --video clip.mp4 --draw timeline.png "At which second does it change its colour?"

Without a question it reads one after another from the terminal, until an empty line or the end of the input; /help
lists the commands there, such as /image PATH. Which media a model takes is its family's.
"""

from __future__ import annotations

import argparse
import gc
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ms_impl.cli.custom import add_custom_arguments, chosen_family, load_customs
from ms_impl.cli.interrupts import Interrupts
from ms_impl.cli.main import command
from ms_impl.errors import InputError

if TYPE_CHECKING:
    from ms_impl.cli.conversation import Conversation
    from ms_impl.families import Family


@command
def main() -> int:
    """The command."""
    interrupts = Interrupts()  # before numpy, which starts threads, is imported: by a file from outside, too
    arguments = parse_arguments()
    conversation = begin(arguments, chat_settings(arguments), interrupts)
    if arguments.question is None:
        conversation.hold()
    else:
        conversation.ask(arguments.question)
    return 0


class AddMedium(argparse.Action):
    """``--image``, ``--video`` and ``--audio`` go into one list, in the order of the command line."""

    def __call__(self, parser, namespace, values, option_string=None) -> None:
        kind = self.option_strings[0].removeprefix("--")
        setattr(namespace, self.dest, [*getattr(namespace, self.dest), (kind, values)])


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("question", nargs="?", help="asked once; without it, questions come from the terminal")
    parser.add_argument("--model", required=True, type=Path, help="checkpoint directory, or one converted file")
    parser.add_argument("--config", type=Path, help="directory with config.json, where --model is one file")
    parser.add_argument("--adapter", type=Path, help="directory of a LoRA adapter for that checkpoint")
    parser.add_argument("--dtype", help="of the weights: fp32, fp16 or bf16, also float32, float16, bfloat16")
    parser.add_argument("--compute_dtype", help="of the activations; bf16 on a CPU: prompts are read by its products")
    files = {"image": "an image file", "video": "a video file, or a directory of its frames,", "audio": "a sound file"}
    for kind, what in files.items():
        add = {"action": AddMedium, "dest": "media", "default": [], "metavar": "FILE"}
        parser.add_argument(f"--{kind}", **add, help=f"{what} to ask about; repeatable, shown in the order given")
    parser.add_argument(
        "--options", nargs="+", default=[], metavar="KEY=VALUE", help="of the template, such as fps=1.0"
    )
    parser.add_argument("--system", help="the system message of chat models")
    drawing = "write the last image with the answer's boxes, or the timeline of the last clip with its times, here"
    parser.add_argument("--draw", type=Path, metavar="PNG", help=drawing)
    parser.add_argument("--font", type=Path, help="font file for the labels of boxes; else one is looked for")
    parser.add_argument("--greedy", action="store_true", help="take the likeliest token each time")
    parser.add_argument("--temperature", type=float, help="above 0; the lower, the likelier the tokens drawn")
    parser.add_argument("--top_p", type=float, help="draw among the likeliest tokens that have this probability")
    parser.add_argument("--seed", type=int, help="makes sampling repeatable")
    parser.add_argument("--max_new_tokens", type=int, help="where an answer is cut off")
    parser.add_argument(
        "--enable_thinking", action="store_true", help="let a model that can think do so before it answers"
    )
    parser.add_argument("--thinking_budget", type=int, metavar="TOKENS", help="where the thinking is ended")
    add_custom_arguments(parser)
    load_customs()
    return parser.parse_args()


def chat_settings(arguments: argparse.Namespace) -> dict[str, Any]:
    """What ``model.chat`` takes, and at once an InputError for what would fail only when the answer is there."""
    from ms_impl.generate.config import GenerationConfig
    from ms_impl.io.dtypes import float_named

    if arguments.seed is not None and arguments.seed < 0:
        raise InputError(f"--seed: {arguments.seed} is below 0")
    target = arguments.draw
    if target and (target.is_dir() or not target.parent.is_dir()):
        raise InputError(
            f"--draw: {target} is {'a directory' if target.is_dir() else 'not in a directory that exists'}"
        )
    if arguments.font:
        from ms_impl.data.fonts import load_font

        load_font(arguments.font, size=10)
    for name in ("dtype", "compute_dtype"):
        if getattr(arguments, name) is not None:
            float_named(getattr(arguments, name), f"--{name}")
    names = ("temperature", "top_p", "max_new_tokens")
    changes = {name: getattr(arguments, name) for name in names if getattr(arguments, name) is not None}
    if arguments.greedy and (drawing := [f"--{name}" for name in ("temperature", "top_p") if name in changes]):
        raise InputError(f"{' and '.join(drawing)} does nothing with --greedy, which draws no token; leave one out")
    if arguments.greedy or "temperature" in changes or "top_p" in changes:
        changes["do_sample"] = not arguments.greedy
    if arguments.thinking_budget is not None:
        if not arguments.enable_thinking:
            raise InputError("--thinking_budget does nothing without --enable_thinking; give that, too")
        changes |= {"enable_thinking_budget": True, "thinking_budget": arguments.thinking_budget}
    if arguments.enable_thinking:
        changes["enable_thinking"] = True
    GenerationConfig().changed(**changes)
    return changes | {"seed": arguments.seed}


def family_of(arguments: argparse.Namespace) -> Family:
    """The family of the model. Raises InputError for media that it does not take, or if it cannot think as asked."""
    from ms_impl import families
    from ms_impl.io.checkpoint_assets import find_config
    from ms_impl.io.json_files import read_json

    config_file = find_config(arguments.model, arguments.config)
    family = chosen_family(arguments, lambda: families.for_config(read_json(config_file), str(config_file)))
    template = family.resolve("template")
    takes = template.takes
    for kind, path in arguments.media:
        if kind not in takes:
            known = " and ".join(f"{each}s" for each in takes) or "text"
            raise InputError(f"--{kind} {path}: this model, {family.name}, takes {known} only; leave it out")
    if arguments.enable_thinking and template.think_end is None:
        raise InputError(f"--enable_thinking: this model, {family.name}, does not think; leave it out")
    return family


def begin(arguments: argparse.Namespace, settings: dict[str, Any], interrupts: Interrupts) -> Conversation:
    """Read the media and the model for a conversation."""
    from ms_impl.cli.conversation import Conversation, open_medium
    from ms_impl.cli.options import options_of
    from ms_impl.data.trained_options import changed

    options = dict(options_of(arguments.options))
    media = [open_medium(kind, path) for kind, path in arguments.media]
    family = family_of(arguments)
    gc.disable()  # what is loaded now stays: there is no garbage to look for
    from ms_impl import load  # the slow import

    names = {"config": arguments.config, "adapter": arguments.adapter, "model_type": family.name}
    names["compute_dtype"] = arguments.compute_dtype
    model, template = load(arguments.model, arguments.dtype, **names)
    template = template.with_options(**options) if options else template
    if shown := changed(template):
        print(f"template: {shown}", file=sys.stderr, flush=True)
    if arguments.draw and template.boxes is None and set(template.takes) <= {"image"}:
        raise InputError("--draw: this model's answers have no boxes to draw; leave it out")
    gc.freeze()  # nor at each graph that MindSpore compiles, when it collects garbage
    gc.enable()
    chat_format = model.generation.chat_format
    remembers = chat_format != "raw"
    if arguments.system is not None:
        if not remembers:
            raise InputError(f"--system: the {chat_format} format of this base model has no system message")
        settings = settings | {"system": arguments.system}
    return Conversation(model, template, media, settings, interrupts, remembers, arguments.draw, arguments.font)


if __name__ == "__main__":
    sys.exit(main())
