"""Ask a model about images, once or in a conversation; boxes in its answers are drawn.

    python scripts/chat.py --model DIR --image photo.png "What is in the picture?"
    python scripts/chat.py --model DIR --image photo.png --draw boxed.png "Frame the shape in the picture."

Without a question it reads one after another from the terminal, until an empty line or the end of the input.
"""

from __future__ import annotations

import argparse
import gc
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from PIL import Image

from ms_impl.cli.main import command
from ms_impl.data.boxes import draw_boxes
from ms_impl.data.images import read_image
from ms_impl.errors import InputError
from ms_impl.io.atomic_write import atomic_write

READABLE = 448  # pixels along the shorter side of a drawn picture


@command
def main() -> int:
    """The command."""
    arguments = parse_arguments()
    converse(arguments)
    return 0


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("question", nargs="?", help="asked once; without it, questions come from the terminal")
    parser.add_argument("--model", required=True, type=Path, help="checkpoint directory, or one converted file")
    parser.add_argument("--config", type=Path, help="directory with config.json, where --model is one file")
    parser.add_argument("--adapter", type=Path, help="directory of a LoRA adapter for that checkpoint")
    parser.add_argument("--image", action="append", default=[], type=Path, help="an image to ask about; repeatable")
    parser.add_argument("--draw", type=Path, metavar="PNG", help="write the last image with the answer's boxes here")
    parser.add_argument("--greedy", action="store_true", help="take the likeliest token each time")
    parser.add_argument("--seed", type=int, help="makes sampling repeatable")
    parser.add_argument("--max_new_tokens", type=int, help="where an answer is cut off")
    return parser.parse_args()


def check(arguments: argparse.Namespace) -> None:
    """Refuse at once what would fail only when the answer is there."""
    if arguments.seed is not None and arguments.seed < 0:
        raise InputError(f"--seed: {arguments.seed} is below 0")
    target = arguments.draw
    if target and (target.is_dir() or not target.parent.is_dir()):
        raise InputError(f"--draw: {target} is {'a folder' if target.is_dir() else 'in no folder that exists'}")


def converse(arguments: argparse.Namespace) -> None:
    """Answer each question; the images go with the first."""
    check(arguments)
    folder, names = beside_each_other(arguments.image)
    gc.disable()  # what is loaded now stays: there is no garbage to look for
    from ms_impl import load  # the slow import

    model, processor = load(arguments.model, config=arguments.config, adapter=arguments.adapter)
    gc.freeze()  # nor at each graph that MindSpore compiles, when it collects garbage
    gc.enable()
    changes = {"do_sample": False} if arguments.greedy else {}
    if arguments.max_new_tokens is not None:
        changes["max_new_tokens"] = arguments.max_new_tokens
    query, history = [{"image": name} for name in names], []
    for question in questions(arguments.question):
        _, history = model.chat(
            processor,
            [*query, {"text": question}],
            history,
            stream=show,
            seed=arguments.seed,
            dataset_dir=folder,
            **changes,
        )
        print()
        query = []
        if arguments.draw and names:
            save_picture(draw(arguments.image[-1], history[-1][1]), arguments.draw)


def beside_each_other(images: list[Path]) -> tuple[str | None, list[str]]:
    """The folder that all images lie under, and their paths in it: short ones, for a path takes slots in the prompt."""
    if not images:
        return None, []
    folder = os.path.commonpath([image.resolve().parent for image in images])
    return folder, [os.path.relpath(image.resolve(), folder) for image in images]


def questions(question: str | None) -> Iterator[str]:
    """The one from the command line, or what is typed until an empty line or the end of the input."""
    if question is not None:
        yield question
        return
    try:
        while line := input("> ").strip():
            yield line
    except EOFError:
        print()


def show(piece: str) -> None:
    print(piece, end="", flush=True)


def draw(image: Path, answer: str) -> Image.Image | None:
    """The image with the boxes of the answer, if it has any; a small image is enlarged, for the labels."""
    picture = read_image(image)
    factor = max(1, READABLE // min(picture.size))
    enlarged = picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST)
    return draw_boxes(enlarged, answer)


def save_picture(picture: Image.Image | None, target: Path) -> None:
    """Write the picture with the boxes of the last answer, if it has any, as PNG."""
    if picture is None:
        print("(no box in the answer)")
        return
    try:
        with atomic_write(target) as partial:
            picture.save(partial, format="PNG")
    except OSError as error:
        raise InputError(f"--draw: {target} cannot be written ({error.strerror})") from error
    print(f"drawn: {target}")


if __name__ == "__main__":
    sys.exit(main())
