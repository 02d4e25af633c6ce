"""Qwen2.5-Omni's chat template: ChatML, with marks around the media of a message."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ms_impl.data.chatml import ASSISTANT, SYSTEM, SYSTEM_MESSAGE
from ms_impl.data.media_sources import AUDIO, IMAGE, VIDEO
from ms_impl.qwen2_5_omni import tokenizer as tokens

# Token and the marks before and after it, by kind; and the word that counts them.
MARKED = {
    IMAGE: (tokens.VISION_START, tokens.IMAGE, tokens.VISION_END),
    VIDEO: (tokens.VISION_START, tokens.VIDEO, tokens.VISION_END),
    AUDIO: (tokens.AUDIO_START, tokens.AUDIO, tokens.AUDIO_END),
}
_COUNTED = {IMAGE: "Picture", VIDEO: "Video", AUDIO: "Audio"}


@dataclass(frozen=True)
class Shown:
    """A medium's place in a message."""

    kind: str


@dataclass(frozen=True)
class Said:
    """Text of an answer, whose tokens never join those of the prompt. ``scale``: what its labels count; None: none."""

    text: str
    scale: float | None = None


Piece = str | Shown | Said


@dataclass(frozen=True)
class ChatMessage:
    """A message: its role, texts and media in order, and what ends it."""

    role: str
    content: Sequence[Piece]
    closing: Sequence[Piece] = (f"{tokens.MESSAGE_END}\n",)


def rendered(
    messages: Iterable[ChatMessage], system: str | None = SYSTEM_MESSAGE, count_media: bool = False,
    add_generation_prompt: bool = False,
) -> list[Piece]:  # fmt: skip
    """Texts and media of a conversation in order, without the marks around media.

    ``system`` is the system message of a conversation that does not begin with one; None: none. ``count_media`` puts
    "Picture 1: " and the like before media.
    """
    messages = list(messages)
    if system is not None and (not messages or messages[0].role != SYSTEM):
        messages = [ChatMessage(SYSTEM, [system]), *messages]
    pieces: list[Piece] = []
    seen = dict.fromkeys(MARKED, 0)
    for message in messages:
        pieces.append(f"{tokens.MESSAGE_START}{message.role}\n")
        for piece in message.content:
            if isinstance(piece, Shown):
                seen[piece.kind] += 1
                pieces += [f"{_COUNTED[piece.kind]} {seen[piece.kind]}: "] if count_media else []
            pieces.append(piece)
        pieces += message.closing
    return [*pieces, f"{tokens.MESSAGE_START}{ASSISTANT}\n"] if add_generation_prompt else pieces


def as_text(pieces: Iterable[Piece]) -> str:
    """The pieces as one text, with one token between marks for each medium."""
    return "".join(map(_text, pieces))


def _text(piece: Piece) -> str:
    if isinstance(piece, Shown):
        return "".join(MARKED[piece.kind])
    return piece.text if isinstance(piece, Said) else piece
