"""Conversations as a model reads them: roles, system message, prompts, images inline."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ms_impl.data.chatml import ASSISTANT, SYSTEM_MESSAGE, USER
from ms_impl.data.media_sources import IMAGE, PLACEHOLDERS, Medium, require_kinds
from ms_impl.data.records import Conversation
from ms_impl.data.tags import image_tag, shorten
from ms_impl.errors import InputError, quote


@dataclass(frozen=True)
class ConversationFormat:
    """How a file's records become ChatML.

    ``user_role_name`` and ``assistant_role_name`` are the file's words for the speakers; the model always reads "user"
    and "assistant", as in a chat. Where both are left as they are, LLaVA's "human" and "gpt" are known, too.
    ``user_prompt`` and ``assistant_prompt`` stand before each message of theirs. ``system_message`` is that of records
    which have none of their own.
    """

    system_message: str = SYSTEM_MESSAGE
    user_role_name: str = USER
    assistant_role_name: str = ASSISTANT
    user_prompt: str = ""
    assistant_prompt: str = ""

    def roles(self, standard: bool = False) -> dict[str, str]:
        """ChatML's role by the word of a record; ``standard``: of one whose roles are user and assistant anyway."""
        names = self.user_role_name, self.assistant_role_name
        if names[0] == names[1]:
            raise InputError(f"user_role_name and assistant_role_name are both {names[0]!r}")
        if standard or names == (USER, ASSISTANT):
            return {USER: USER, ASSISTANT: ASSISTANT, "human": USER, "gpt": ASSISTANT}
        return {names[0]: USER, names[1]: ASSISTANT}


@dataclass(frozen=True)
class Message:
    """One turn as the model reads it: ChatML's role, and ``text`` behind the role's ``prompt``, images inline."""

    role: str
    text: str
    prompt: str = ""
    trained: bool = False

    @property
    def content(self) -> str:
        return self.prompt + self.text


def messages(conversation: Conversation, style: ConversationFormat) -> tuple[str, list[Message]]:
    """The system message and the turns of a conversation as the model reads them.

    This is how training, its check, evaluation and conversion read roles and images. Raises InputError for an unknown
    role, and for ``"loss": true`` in a turn that is not the assistant's.
    """
    roles = style.roles(conversation.standard_roles)
    prompts = {USER: style.user_prompt, ASSISTANT: style.assistant_prompt}
    system = style.system_message if conversation.system is None else conversation.system
    whole = [system, *(turn.text for turn in conversation.turns)]
    _require_known(conversation, whole)
    system, *texts = _with_images(whole, conversation.media)
    result = []
    for number, (turn, text) in enumerate(zip(conversation.turns, texts)):
        if turn.role not in roles:
            known = " and ".join(repr(name) for name in list(roles)[:2])
            raise InputError(f"unknown role {shorten(turn.role)!r}; user_role_name and assistant_role_name are {known}")
        role = roles[turn.role]
        if turn.trained and role != ASSISTANT:
            raise InputError(f"turn {number}: 'loss' is true, but only an assistant's turns are trained")
        result.append(Message(role, text, prompts[role], role == ASSISTANT and turn.trained is not False))
    return system, result


def _require_known(conversation: Conversation, texts: Sequence[str]) -> None:
    """Raise InputError for what a record may have and this family cannot train on."""
    require_kinds(conversation.media, texts, {IMAGE: ()})
    if conversation.objects is not None:
        raise InputError("'objects' is given; its boxes must stand in the text")
    for number, turn in enumerate(conversation.turns):
        if turn.loss_scale not in (0, 1):
            scale = f"'loss_scale' is {quote(turn.loss_scale)}"
            raise InputError(f"turn {number}: {scale}: only 0 and 1 are supported, or 'loss': false")


def spoken(turns: Sequence[Message], count: Callable[[str], None]) -> list[Message]:
    """The turns to train on: those from the user's first on, where one turn of another stands before it.

    ``count`` is told of what was changed, or is odd. Raises InputError where nothing is left.
    """
    if turns and turns[0].role != USER:
        count("leading turn that is not the user's left out")
        turns = turns[1:]
    if not turns:
        raise InputError("the conversation is empty")
    if any(turn.role == following.role for turn, following in zip(turns, turns[1:])):
        count("several turns of one role in a row")
    return list(turns)


def check_answers(turns: Sequence[Message]) -> None:
    """Raise InputError unless there is an answer to train on, and none is empty."""
    answers = [turn for turn in turns if turn.trained]
    if not answers:
        raise InputError("no answer: it has no assistant turn to train on")
    if any(not answer.text.strip() for answer in answers):
        raise InputError("an answer is empty")


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
