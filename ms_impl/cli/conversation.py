"""A conversation in a terminal or through pipes: questions, commands, answers as they grow, boxes drawn."""

from __future__ import annotations

import io
import os
import re
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from ms_impl.cli.answer_printer import AnswerPrinter
from ms_impl.cli.interrupts import Interrupts
from ms_impl.data.box_drawing import draw_boxes
from ms_impl.data.images import read_image, resolve_path
from ms_impl.data.thinking import split_thinking
from ms_impl.errors import InputError, quote
from ms_impl.generate.chat_session import ChatSession
from ms_impl.io.atomic_write import atomic_write

READABLE = 448  # pixels along the shorter side of a drawn image

HELP = """\
/image PATH   show an image with the next question
/reset        forget the conversation; it begins as it did
/help         this
An empty line or Ctrl-D ends; Ctrl-C ends an answer."""
_COMMAND = re.compile(r"/(\w+)(?:\s+(.*))?")


def open_image(path: str) -> Image.Image:
    """An image named on a command line. Raises InputError for a URL, or what cannot be read."""
    return read_image(resolve_path(path))


@dataclass
class Conversation:
    """What has been said, and what goes with the next question.

    Args:
        images: shown with the first question; in a format without history, with each.
        settings: what ``ChatSession`` takes beside model and template.
        interrupts: where Ctrl-C is told.
        remembers: whether the chat format has a history; without one, each question stands alone.
        target: where the latest image with the boxes of each answer is written.
    """

    model: Any
    template: Any
    images: list[Image.Image]
    settings: dict[str, Any]
    interrupts: Interrupts
    remembers: bool = True
    target: Path | None = None
    font: Path | None = None
    latest: Image.Image | None = None  # the one that was shown last

    def __post_init__(self) -> None:
        self.waiting = list(self.images)
        self.session = ChatSession(self.model, self.template, **self.settings)

    def hold(self) -> None:
        """Take questions and commands from stdin until an empty line or its end. A bad one is told, and no more."""
        if not self.remembers:
            _note("This chat format, of base models, has no history: each question stands alone.")
        for line in self._lines():
            try:
                if command := _COMMAND.fullmatch(line):
                    self._obey(command[1], (command[2] or "").strip())
                else:
                    with self.interrupts.noted() as interrupted:
                        self.ask(line, interrupted)
            except InputError as error:
                _note(f"error: {error}")

    def ask(self, question: str, interrupted: list[bool] | None = None) -> None:
        """Print the answer as it grows; ``interrupted`` fills when it shall end. Raises InputError."""
        query: list[dict[str, Any]] = [*({"image": image} for image in self.waiting), {"text": question}]
        if not self.remembers:
            self.session.reset()
        pieces, printer = self.session.stream(query), AnswerPrinter(self._think_end)
        while not interrupted and (piece := next(pieces, None)) is not None:
            printer.show(piece)
        if interrupted:
            pieces.close()
        printer.end(" …" if interrupted else "")
        self.latest = self.waiting[-1] if self.waiting else self.latest
        self.waiting = self.waiting if not self.remembers else []
        if self.target:
            self._draw(self.target)

    @property
    def _think_end(self) -> str | None:
        """What ends the thinking of the answers, where they begin with one."""
        thinks = self.settings.get("enable_thinking", self.model.generation.enable_thinking)
        return self.template.think_end if thinks else None

    def _lines(self) -> Iterator[str]:
        """What is typed, with the arrow keys and a memory of lines where the terminal has them."""
        if isinstance(sys.stdin, io.TextIOWrapper):
            sys.stdin.reconfigure(errors="replace")
        if sys.stdin.isatty() and sys.stdout.isatty():
            with suppress(ImportError):
                import readline  # noqa: F401 - being there, it serves input()
            print("/help lists the commands.")
        while True:
            try:
                with self.interrupts.at_once():
                    line = input("> ").strip()
            except EOFError:
                print()
                return
            if not line:
                return
            yield line

    def _obey(self, name: str, rest: str) -> None:
        if name == "help":
            print(HELP)
        elif name == "reset":
            self.session.reset()
            self.waiting, self.latest = list(self.images), None
            print(f"(forgotten; {_counted(self.waiting)})")
        elif name == "image":
            if not rest:
                raise InputError("/image needs the path of an image")
            self.waiting.append(open_image(os.path.expanduser(_unquoted(rest))))
            print(f"({_counted(self.waiting)})")
        else:
            raise InputError(f"unknown command {quote('/' + name)}; /help lists the commands")

    def _draw(self, target: Path) -> None:
        if self.latest is None:
            print("(no image to draw on)")
        elif self.template.boxes is None:
            print("(this model writes no boxes)")
        else:
            _, answer = split_thinking(self.session.history[-1][1] or "", self.template.think_end)
            image = enlarged(self.latest)
            save_image(draw_boxes(image, answer, self.template.boxes, self.font, self.latest.size), target)


def enlarged(image: Image.Image) -> Image.Image:
    """A small image made larger, so that labels on it can be read."""
    factor = max(1, READABLE // min(image.size))
    longest = max(image.size)
    factor = max(1, min(factor, 4 * READABLE // longest))
    return image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)


def save_image(image: Image.Image | None, target: Path) -> None:
    """Write an image as PNG; None is what has no boxes. Raises InputError if it cannot be written."""
    if image is None:
        print("(no box in the answer)")
        return
    try:
        with atomic_write(target) as partial:
            image.save(partial, format="PNG")
    except OSError as error:
        raise InputError(f"--draw: {target} cannot be written ({error.strerror})") from error
    print(f"drawn: {target}")


def _counted(images: list[Image.Image]) -> str:
    if not images:
        return "no image goes with the next question"
    sizes = ", ".join(f"{image.width}×{image.height}" for image in images)
    return f"images that go with the next question: {len(images)} ({sizes})"


def _unquoted(path: str) -> str:
    """A path as it comes when a file is dragged into the terminal: in quotes."""
    return path[1:-1] if len(path) > 1 and path[0] == path[-1] and path[0] in "'\"" else path


def _note(text: str) -> None:
    sys.stdout.flush()
    print(text, file=sys.stderr, flush=True)
