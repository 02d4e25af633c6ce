"""Conversations as Qwen-VL reads them: images stand in the text, ``Picture N: <img>path</img>``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ms_impl.data.conversations import ConversationFormat, Message
from ms_impl.data.conversations import messages as plain_messages
from ms_impl.data.media_sources import IMAGE, PLACEHOLDERS, Medium, require_kinds
from ms_impl.data.records import Conversation
from ms_impl.data.tags import image_tag
from ms_impl.errors import InputError, quote


def messages(conversation: Conversation, style: ConversationFormat) -> tuple[str, list[Message]]:
    """The system message and the turns of a conversation, images inline.

    This is how training, its check, evaluation and conversion read roles and images. Raises InputError as
    ``ms_impl.data.conversations.messages``, and for media and weights that Qwen-VL does not take.
    """
    system = style.system_message if conversation.system is None else conversation.system
    texts = [system, *(turn.text for turn in conversation.turns)]
    _require_known(conversation, texts)
    system, *texts = _with_images(texts, conversation.media)
    turns = tuple(replace(turn, text=text) for turn, text in zip(conversation.turns, texts))
    return plain_messages(replace(conversation, system=system, turns=turns, media=()), style)


def _require_known(conversation: Conversation, texts: Sequence[str]) -> None:
    """Raise InputError for what a record may have and this family cannot train on."""
    require_kinds(conversation.media, texts, {IMAGE: ()})
    if conversation.objects is not None:
        raise InputError("'objects' is given; its boxes must stand in the text")
    for number, turn in enumerate(conversation.turns):
        if turn.loss_scale not in (0, 1):
            scale = f"'loss_scale' is {quote(turn.loss_scale)}"
            raise InputError(f"turn {number}: {scale}: only 0 and 1 are supported, or 'loss': false")


def _with_images(texts: Sequence[str], images: Sequence[Medium]) -> list[str]:
    """The texts with each placeholder replaced by its image; a newline behind the placeholder is the image's own."""
    if not images:
        return list(texts)
    shown, rest = [], iter(enumerate(images, start=1))
    for text in texts:
        first, *others = text.split(PLACEHOLDERS[IMAGE])
        for after in others:
            number, image = next(rest)
            first += image_tag(str(image.source), number) + after.removeprefix("\n")
        shown.append(first)
    return shown
