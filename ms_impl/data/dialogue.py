"""A record as a chat: queries and answers, the way a conversation with a model goes."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from ms_impl.data.chatml import ASSISTANT, USER
from ms_impl.data.media_sources import split_placeholders
from ms_impl.errors import InputError

Turn = tuple[str, str | None]  # a query, as histories keep it, and its answer


@dataclass(frozen=True)
class Dialogue:
    """What ``Template.encode_turn`` takes.

    Args:
        system: None: as the template has it.
        turns: the last query's answer is None where the record has none.
        images: the image files that are shown up to the last query, in order, as they are written.
    """

    system: str | None
    turns: tuple[Turn, ...]
    images: tuple[str, ...] = ()


def paired(roles: Sequence[str], texts: Sequence[str]) -> tuple[Turn, ...]:
    """The texts of turns as queries and answers. Raises InputError unless user and assistant alternate."""
    require_alternation(roles)
    if not texts:
        raise InputError("the conversation is empty")
    answers: list[str | None] = [*texts[1::2], None] if len(texts) % 2 else [*texts[1::2]]
    return tuple(zip(texts[::2], answers))


def require_in_questions(
    system: str | None, roles: Sequence[str], texts: Sequence[str], kinds: Collection[str]
) -> None:
    """Raise InputError for placeholders of ``kinds`` elsewhere than in questions, where a chat shows its media."""
    for name, role, text in [("the system message", "", system or ""), *_named(roles, texts)]:
        if role != USER and any(kind != "text" for kind, _ in split_placeholders(text, kinds)):
            raise InputError(f"{name} shows media; only a question can, where the model is to answer")


def _named(roles: Sequence[str], texts: Sequence[str]) -> list[tuple[str, str, str]]:
    return [(f"turn {number}", role, text) for number, (role, text) in enumerate(zip(roles, texts))]


def require_alternation(roles: Sequence[str]) -> None:
    """Raise InputError unless user and assistant take turns, the user first."""
    for number, role in enumerate(roles):
        if role != (USER, ASSISTANT)[number % 2]:
            raise InputError(f"turn {number} is the {role}'s: user and assistant must alternate, the user must begin")
