"""What has been said in one tab of a browser. It stays on the server, so that nobody can forge it."""

from __future__ import annotations

import json
import mimetypes
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ms_impl.data.media_sources import AUDIO, IMAGE, VIDEO
from ms_impl.serve.engine import parsed
from ms_impl.serve.exchange import Exchange
from ms_impl.serve.schema import ChatRequest

_PARTS = {IMAGE: "image_url", VIDEO: "video_url", AUDIO: "audio_url"}


@dataclass(frozen=True)
class Upload:
    """A file that was uploaded: an image, a video or a sound."""

    kind: str
    path: Path


@dataclass(eq=False)
class Turn:
    """A question and its answer.

    Attributes:
        thinking, answer: as far as they have come.
        drawing: the image of boxes or the timeline of this answer, with the word for what it is.
        note: the word for why the answer ended as it did, or "".
        problem: a sentence that says why there is no answer, or "".
        grows: whether it is being answered.
    """

    text: str
    media: tuple[Upload, ...] = ()
    thinking: str = ""
    answer: str = ""
    drawing: tuple[str, Path] | None = None
    note: str = ""
    problem: str = ""
    grows: bool = True

    def again(self) -> Turn:
        """The same question, unanswered."""
        return Turn(self.text, self.media)


class Session:
    """The turns, oldest first, and the exchange that answers the last of them. (gradio would look into a dataclass.)"""

    def __init__(self) -> None:
        self.turns: list[Turn] = []
        self.exchange: Exchange | None = None

    def ask(self, text: str, media: Sequence[Upload]) -> None:
        """Add a turn. One that got no answer is not shown to the model, and goes."""
        self.turns = [turn for turn in self.turns if turn.answer] + [Turn(text, tuple(media))]

    def ask_again(self) -> None:
        """Have the last question answered anew."""
        if self.turns:
            self.turns[-1] = self.turns[-1].again()

    def stop(self) -> None:
        """End the answer that grows, if there is one."""
        if self.exchange:
            self.exchange.leave()

    def clear(self) -> None:
        """Forget what has been said, and end what grows."""
        self.stop()
        self.turns = []

    def shown_media(self) -> list[Upload]:
        """All media of the conversation, oldest first."""
        return [medium for turn in self.turns for medium in turn.media]

    def request(self, model: str, **fields: Any) -> ChatRequest:
        """The last question with all before it. Raises Refusal for a field that is wrong."""
        messages: list[dict[str, Any]] = []
        for turn in self.turns:
            messages.append({"role": "user", "content": _parts(turn)})
            if turn is not self.turns[-1]:
                messages.append({"role": "assistant", "content": turn.answer})
        asked = {"model": model, "messages": messages, **fields}
        return parsed(json.dumps(asked).encode())


def kind_of(path: Path) -> str | None:
    """Image, video or audio by the ending of a file's name; None: something else."""
    kind = (mimetypes.guess_type(path.name)[0] or "").partition("/")[0]
    return kind if kind in _PARTS else None


def _parts(turn: Turn) -> list[dict[str, Any]]:
    """A question as the parts of a message: files by their place, for they lie where the server lets them be read."""
    parts: list[dict[str, Any]] = [
        {"type": _PARTS[each.kind], _PARTS[each.kind]: {"url": each.path.resolve().as_uri()}} for each in turn.media
    ]
    return [*parts, {"type": "text", "text": turn.text}]
