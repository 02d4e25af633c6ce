"""Conversations as a model reads them: roles, system message, prompts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ms_impl.data.chatml import ASSISTANT, SYSTEM_MESSAGE, USER
from ms_impl.data.records import Conversation
from ms_impl.data.tags import shorten
from ms_impl.errors import InputError


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
    """One turn as the model reads it: ChatML's role, and ``text`` behind the role's ``prompt``."""

    role: str
    text: str
    prompt: str = ""
    trained: bool = False

    @property
    def content(self) -> str:
        return self.prompt + self.text


def messages(conversation: Conversation, style: ConversationFormat) -> tuple[str, list[Message]]:
    """The system message and the turns of a conversation as the model reads them.

    Raises InputError for an unknown role, and for ``"loss": true`` in a turn that is not the assistant's.
    """
    roles = style.roles(conversation.standard_roles)
    prompts = {USER: style.user_prompt, ASSISTANT: style.assistant_prompt}
    system = style.system_message if conversation.system is None else conversation.system
    result = []
    for number, turn in enumerate(conversation.turns):
        if turn.role not in roles:
            known = " and ".join(repr(name) for name in list(roles)[:2])
            raise InputError(f"unknown role {shorten(turn.role)!r}; user_role_name and assistant_role_name are {known}")
        role = roles[turn.role]
        if turn.trained and role != ASSISTANT:
            raise InputError(f"turn {number}: 'loss' is true, but only an assistant's turns are trained")
        result.append(Message(role, turn.text, prompts[role], role == ASSISTANT and turn.trained is not False))
    return system, result


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
