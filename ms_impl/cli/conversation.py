"""A conversation in a terminal or through pipes: questions, commands, answers as they grow, boxes and times drawn."""

from __future__ import annotations

import io
import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from ms_impl.cli.answer_printer import AnswerPrinter
from ms_impl.cli.interrupts import Interrupts
from ms_impl.cli.media_paths import medium_path
from ms_impl.data.images import read_image, resolve_path
from ms_impl.data.media_sources import IMAGE
from ms_impl.data.thinking import split_thinking
from ms_impl.errors import InputError, quote
from ms_impl.generate.chat_session import ChatSession
from ms_impl.io.atomic_write import atomic_write

_COMMAND = re.compile(r"/(\w+)(?:\s+(.*))?")


@dataclass(frozen=True)
class Shown:
    """An image, a video or an audio that goes with a question; ``content`` is an image in memory, a path, or the paths
    of a video's frames."""

    kind: str
    content: Any

    @property
    def told(self) -> str:
        """How it is listed."""
        if self.kind == IMAGE:
            return f"{self.content.width}×{self.content.height}"
        return f"{len(self.content)} frames" if isinstance(self.content, list) else os.path.basename(self.content)


def open_medium(kind: str, path: str) -> Shown:
    """A file named on a command line, or the directory of a video's frames.

    Videos and audios are read when they are asked about. Raises InputError for a URL, what is not there, an image that
    cannot be read, and a directory as ``media_paths.frames_in``.
    """
    return Shown(kind, read_image(resolve_path(path, what=kind)) if kind == IMAGE else medium_path(kind, path))


@dataclass
class Conversation:
    """What has been said, and what goes with the next question.

    Args:
        media: shown with the first question; in a format without history, with each.
        settings: what ``ChatSession`` takes beside model and template.
        interrupts: where Ctrl-C is told.
        remembers: whether the chat format has a history; without one, each question stands alone.
        target: where the latest image with the boxes of each answer is written, or the timeline of the latest clip
            with its times.
    """

    model: Any
    template: Any
    media: list[Shown]
    settings: dict[str, Any]
    interrupts: Interrupts
    remembers: bool = True
    target: Path | None = None
    font: Path | None = None
    latest: Shown | None = None  # what was shown last

    def __post_init__(self) -> None:
        self.waiting = list(self.media)
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
        query: list[dict[str, Any]] = [*({each.kind: each.content} for each in self.waiting), {"text": question}]
        if not self.remembers:
            self.session.reset()
        pieces = self.session.stream(query)
        with AnswerPrinter(self._think_end) as printer:
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
            print(help_text(self.template.takes))
        elif name == "reset":
            self.session.reset()
            self.waiting, self.latest = list(self.media), None
            print(f"(forgotten; {self._counted()})")
        elif name in self.template.takes:
            if not rest:
                raise InputError(f"/{name} needs the path of {with_article(name)}")
            self.waiting.append(open_medium(name, os.path.expanduser(_unquoted(rest))))
            print(f"({self._counted()})")
        else:
            raise InputError(f"unknown command {quote('/' + name)}; /help lists the commands")

    def _counted(self) -> str:
        kinds = self.template.takes
        if not self.waiting:
            return f"no {listed_or(kinds)} goes with the next question"
        by_kind = {kind: [each.told for each in self.waiting if each.kind == kind] for kind in kinds}
        return "; ".join(
            f"{kind}s that go with the next question: {len(told)} ({', '.join(told)})"
            for kind, told in by_kind.items()
            if told
        )

    def _draw(self, target: Path) -> None:
        if self.latest is None:
            print(f"(no {listed_or(self.template.takes)} to draw on)")
            return
        _, answer = split_thinking(self.session.history[-1][1] or "", self.template.think_end)
        if isinstance(self.latest.content, list):
            print("(frames have no seconds to draw)")
        elif self.latest.kind != IMAGE:
            save_image(_timeline(self.latest.content, answer, self.font), target)
        elif self.template.boxes is None:
            print("(this model writes no boxes)")
        else:
            from ms_impl.data.box_drawing import draw_boxes, enlarged  # fonts and all, for answers that are drawn

            image = enlarged(self.latest.content)
            save_image(draw_boxes(image, answer, self.template.boxes, self.font, self.latest.content.size), target)


def help_text(kinds: Sequence[str]) -> str:
    """The commands of a conversation with a model that takes media of ``kinds``."""
    shows = {f"/{kind} PATH": f"show {with_article(kind)} with the next question" for kind in kinds}
    commands = {**shows, "/reset": "forget the conversation; it begins as it did", "/help": "this"}
    lines = [f"{name:<13} {told}" for name, told in commands.items()]
    return "\n".join([*lines, "An empty line or Ctrl-D ends; Ctrl-C ends an answer."])


def with_article(kind: str) -> str:
    """``a video``, ``an image``."""
    return f"{'an' if kind[0] in 'aeiou' else 'a'} {kind}"


def listed_or(kinds: Sequence[str]) -> str:
    """``image, video or audio``."""
    return " or ".join(filter(None, [", ".join(kinds[:-1]), *kinds[-1:]])) or "medium"


def _timeline(path: str, answer: str, font: Path | None) -> Image.Image:
    from ms_impl.media.timeline import answer_marks, clip_seconds, draw_timeline

    return draw_timeline(path, answer_marks(answer, clip_seconds(path)), font)


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


def _unquoted(path: str) -> str:
    """A path as it comes when a file is dragged into the terminal: in quotes."""
    return path[1:-1] if len(path) > 1 and path[0] == path[-1] and path[0] in "'\"" else path


def _note(text: str) -> None:
    sys.stdout.flush()
    print(text, file=sys.stderr, flush=True)
