"""A parsed record → what is said in it, by whom, and what of that is trained (ms-swift 3.9's rules)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ms_impl.data.boxes import BoxStyle, Size
from ms_impl.data.chatml import ASSISTANT, SYSTEM, USER
from ms_impl.data.dialogue import Dialogue, paired, require_in_questions
from ms_impl.data.media_sources import IMAGE, Medium, require_kinds, split_placeholders
from ms_impl.data.objects import fill_objects
from ms_impl.data.records import Conversation, Turn
from ms_impl.data.tags import shorten
from ms_impl.errors import InputError
from ms_impl.qwen2_5_omni.chat_template import ChatMessage, Piece, Said, Shown
from ms_impl.qwen2_5_omni.media import TAKES
from ms_impl.qwen2_5_omni.options import OmniOptions
from ms_impl.qwen2_5_omni.queries import marked
from ms_impl.qwen2_5_omni.tokenizer import MESSAGE_END


@dataclass(frozen=True)
class Speeches:
    """The messages of a conversation, and their media in order."""

    messages: tuple[ChatMessage, ...]
    media: tuple[Medium, ...]


def speeches(
    conversation: Conversation, options: OmniOptions, boxes: BoxStyle, size_of: Callable[[str], Size]
) -> Speeches:
    """The conversation as the model reads it, its objects written as ``boxes``.

    An empty system message is none. ``size_of`` tells the size of an image file. Raises InputError for an unknown
    role, for media that the model does not take, and where nothing is to be learnt.
    """
    system, said, texts = _read(conversation, options, boxes, size_of)
    kinds = {medium.kind for medium in conversation.media}
    _check_answers(conversation.turns, said)
    prompts = {USER: options.user_prompt, ASSISTANT: options.assistant_prompt}
    messages = [ChatMessage(SYSTEM, _pieces(system, kinds))] if system else []
    for number, (turn, role, text) in enumerate(zip(conversation.turns, said, texts)):
        pieces = _pieces(prompts[role] + text, kinds)
        is_last = number == len(said) - 1
        messages.append(_answer(turn, pieces, is_last) if role == ASSISTANT else ChatMessage(role, pieces))
    return Speeches(tuple(messages), conversation.media)


def chat_of(
    conversation: Conversation, options: OmniOptions, boxes: BoxStyle, size_of: Callable[[str], Size]
) -> Dialogue:
    """The conversation as a chat goes, media of its questions as ``queries.split`` reads them.

    Raises InputError as ``speeches`` does, unless user and assistant alternate, and for media elsewhere.
    """
    system, roles, texts = _read(conversation, options, boxes, size_of)
    kinds = {medium.kind for medium in conversation.media}
    require_in_questions(system, roles, texts, kinds)
    prompts = {USER: options.user_prompt, ASSISTANT: options.assistant_prompt}
    rest = iter(conversation.media)
    asked = [prompts[role] + marked(text, rest, kinds) for role, text in zip(roles, texts)]
    if len(asked) % 2 == 0 and asked:
        asked[-1] = texts[-1]  # the right answer has no prompt before it
    images = tuple(str(medium.source) for medium in conversation.media if medium.kind == IMAGE)
    return Dialogue(system, paired(roles, asked), images)


def _read(
    conversation: Conversation, options: OmniOptions, boxes: BoxStyle, size_of: Callable[[str], Size]
) -> tuple[str, list[str], list[str]]:
    """The system message, and roles and texts of the turns, objects filled in."""
    roles = options.roles(conversation.standard_roles)
    system = options.system_message if conversation.system is None else conversation.system
    texts = [system, *(turn.text for turn in conversation.turns)]
    require_kinds(conversation.media, texts, TAKES)
    if conversation.objects is not None:
        images = [str(medium.source) for medium in conversation.media if medium.kind == IMAGE]
        texts = fill_objects(texts, conversation.objects, boxes, lambda number: size_of(images[number]))
    return system, [_role(turn, roles, number) for number, turn in enumerate(conversation.turns)], texts[1:]


def _answer(turn: Turn, pieces: Sequence[Piece], is_last: bool) -> ChatMessage:
    """An answer; the mark of its end is trained with it, and in any case where it ends the conversation."""
    scale = turn.loss_scale if turn.trained is not False else None
    content = [Said(piece, scale) if isinstance(piece, str) else piece for piece in pieces]
    end = Said(MESSAGE_END, 1.0 if scale is None and is_last else scale)
    return ChatMessage(ASSISTANT, content, (end,) if is_last else (end, "\n"))


def _pieces(text: str, kinds: set[str]) -> list[Piece]:
    return [piece if kind == "text" else Shown(kind) for kind, piece in split_placeholders(text, kinds)]


def _role(turn: Turn, roles: dict[str, str], number: int) -> str:
    if turn.role not in roles:
        raise InputError(f"unknown role {shorten(turn.role)!r}; known: {', '.join(roles)}")
    role = roles[turn.role]
    if turn.trained and role != ASSISTANT:
        raise InputError(f"turn {number}: 'loss' is true, but only an assistant's turns are trained")
    return role


def _check_answers(turns: Sequence[Turn], roles: Sequence[str]) -> None:
    answers = [turn for turn, role in zip(turns, roles) if role == ASSISTANT and turn.trained is not False]
    if not answers:
        raise InputError("no answer: it has no assistant turn to train on")
    if any(not answer.text.strip() for answer in answers):
        raise InputError("an answer is empty")
