"""A parsed record → what is said in it, by whom, and what it shows."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from ms_impl.data.boxes import Size
from ms_impl.data.chatml import ASSISTANT, USER
from ms_impl.data.dialogue import Dialogue, paired, require_in_questions
from ms_impl.data.media_sources import IMAGE, VIDEO, require_kinds
from ms_impl.data.objects import fill_objects
from ms_impl.data.records import Conversation
from ms_impl.data.sample import IGNORED
from ms_impl.errors import InputError, listed, quote
from ms_impl.ovis2_5.boxes import BOXES
from ms_impl.ovis2_5.formatter import ANSWER, HUMAN, SYSTEM, UNTRAINED_ANSWER, Message
from ms_impl.ovis2_5.queries import Shown, with_marks

_ROLES = {"human": HUMAN, "user": HUMAN, "gpt": ANSWER, "assistant": ANSWER, "ignored_gpt": UNTRAINED_ANSWER}
_SPEAKERS = {HUMAN: USER, ANSWER: ASSISTANT, UNTRAINED_ANSWER: ASSISTANT}

SizeOf = Callable[[int], Size]  # of one of the conversation's images, counted from 0


def shown(conversation: Conversation) -> list[Shown]:
    """What a record shows, in order. Raises InputError for what the model does not take."""
    texts = [conversation.system or "", *(turn.text for turn in conversation.turns)]
    require_kinds(conversation.media, texts, {IMAGE: (), VIDEO: ()})
    return [Shown(medium.kind, medium.source) for medium in conversation.media]


def messages(conversation: Conversation, size_of: SizeOf) -> list[Message]:
    """The turns in the original's words for roles, boxes filled in.

    An answer that its record excludes is one that the original ignores. Raises InputError for an unknown role, and for
    ``"loss": true`` in a turn that is not an answer.
    """
    system, texts = _texts(conversation, size_of)
    said = [] if system is None else [Message(SYSTEM, system)]
    for number, (turn, text) in enumerate(zip(conversation.turns, texts)):
        if turn.role not in _ROLES:
            raise InputError(f"turn {number}: unknown role {quote(turn.role)}; known: {listed(_ROLES)}")
        role = _ROLES[turn.role]
        if turn.trained and role != ANSWER:
            raise InputError(f"turn {number}: 'loss' is true, but only answers are trained")
        said.append(Message(UNTRAINED_ANSWER if role == ANSWER and turn.trained is False else role, text))
    return said


def check_answers(said: Sequence[Message]) -> None:
    """Raise InputError unless there is an answer to train on, and none is empty."""
    answers = [message for message in said if message.role == ANSWER]
    if not answers:
        raise InputError("no answer: it has no assistant turn to train on")
    if any(not message.text.strip() for message in answers):
        raise InputError("an answer is empty")


def chat_of(conversation: Conversation, size_of: SizeOf) -> Dialogue:
    """A record's turns as a chat, visuals of its questions as ``queries.shown_in`` reads them.

    Raises InputError as ``messages`` does, unless user and assistant alternate, and for visuals elsewhere.
    """
    visuals, said = shown(conversation), messages(conversation, size_of)
    system = said[0].text if said and said[0].role == SYSTEM else None
    turns = said[system is not None :]
    speakers, texts = [_SPEAKERS[turn.role] for turn in turns], [turn.text for turn in turns]
    kinds = {visual.kind for visual in visuals}
    require_in_questions(system, speakers, texts, kinds)
    rest = iter(visuals)
    asked = [with_marks(text, rest, kinds) if speaker == USER else text for speaker, text in zip(speakers, texts)]
    images = tuple(str(visual.source) for visual in visuals if visual.kind == IMAGE)
    return Dialogue(system, paired(speakers, asked), images)


def loss_scale(conversation: Conversation, said: Sequence[Message], labels: np.ndarray) -> np.ndarray | None:
    """float32 [t], what the labels of each answer count; None where all count 1."""
    scales = [turn.loss_scale for turn in conversation.turns]
    if all(scale in (0, 1) for scale in scales):
        return None
    trained = [scale for scale, message in zip(scales, said[-len(scales) :]) if message.role == ANSWER]
    learnt = labels != IGNORED
    begins = np.flatnonzero(learnt & ~np.concatenate(([False], learnt[:-1])))  # of each answer
    counted = np.ones(len(labels), np.float32)
    for begin, scale in zip(begins, trained, strict=True):
        counted[begin:] = scale
    return counted


def _texts(conversation: Conversation, size_of: SizeOf) -> tuple[str | None, list[str]]:
    """The system message and the turns, objects filled in."""
    texts = [conversation.system or "", *(turn.text for turn in conversation.turns)]
    if conversation.objects is not None:
        texts = fill_objects(texts, conversation.objects, BOXES, size_of)
    return None if conversation.system is None else texts[0], texts[1:]
