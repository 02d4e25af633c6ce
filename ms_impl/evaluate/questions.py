"""Records to evaluate: conversations of the usual files, to be answered where the last assistant turn stands.

That turn is the right answer. Instead of it or beside it a record may have ``"answers": [...]``, several people's;
``"choices": [...]``, among which the right answer is; or ``"bbox": [left, top, right, bottom]``, the right box in
pixels of the last picture.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

from ms_impl.data.boxes import Rectangle
from ms_impl.data.chatml import ASSISTANT, USER
from ms_impl.data.conversations import Conversation, ConversationFormat, parse_record
from ms_impl.data.images import read_image, resolve_path
from ms_impl.data.tags import split_tags
from ms_impl.errors import InputError
from ms_impl.evaluate.grounding import from_pixels

Pairs = list[tuple[str, str]]  # the user's message and the assistant's


@dataclass(frozen=True)
class Question:
    """One record. ``record`` is how errors name it; ``identity`` its ``id``, or else its number in the file.

    ``box`` is its ``bbox`` in 0–999 of the picture's sides.
    """

    record: str
    identity: Any
    query: str
    history: tuple[tuple[str, str], ...]
    references: tuple[str, ...]
    choices: tuple[str, ...] = ()
    box: Rectangle | None = None


def parse_question(
    record: Any, number: int, source: str, style: ConversationFormat, dataset_dir: str | os.PathLike
) -> Question:
    """A parsed record of a file. ``source`` names it in errors. Raises InputError for a record of another shape."""
    conversation = parse_record(record, source)
    try:
        pairs, answer = _pairs(conversation, style)
        given = () if answer is None else (answer,)
        return Question(
            conversation.record,
            record.get("id", number),
            query=pairs[-1][0],
            history=tuple(pairs[:-1]),
            references=_texts(record, "answers") or given,
            choices=_texts(record, "choices"),
            box=_box(record, pairs, dataset_dir),
        )
    except InputError as error:
        raise InputError(f"{conversation.record}: {error}") from error


def pictures(question: Question) -> list[str]:
    """The paths of all pictures that are shown, in order."""
    return _pictures([*question.history, (question.query, "")])


def _pairs(conversation: Conversation, style: ConversationFormat) -> tuple[Pairs, str | None]:
    """The messages as the model reads them, the last assistant's empty; and what stood there."""
    roles = {style.user_role_name: USER, style.assistant_role_name: ASSISTANT}
    turns = conversation.turns
    if unknown := [turn.role for turn in turns if turn.role not in roles]:
        known = " and ".join(repr(name) for name in roles)
        raise InputError(f"unknown role {unknown[0]!r}; user_role_name and assistant_role_name are {known}")
    if any(roles[turn.role] != (USER, ASSISTANT)[index % 2] for index, turn in enumerate(turns)):
        raise InputError("user and assistant must alternate, and the user must begin")
    answer = turns[-1].text if len(turns) % 2 == 0 else None
    asked = [style.user_prompt + turn.text for turn in turns[::2]]
    told = [turn.text for turn in turns[1::2]][: len(asked) - 1]
    return list(zip(asked, [*told, ""])), answer


def _pictures(pairs: Pairs) -> list[str]:
    return [path for pair in pairs for text in pair for tag, path in split_tags(text) if tag == "img"]


def _texts(record: dict[str, Any], key: str) -> tuple[str, ...]:
    texts = record.get(key, [])
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise InputError(f"'{key}' must be a list of texts")
    return tuple(texts)


def _box(record: dict[str, Any], pairs: Pairs, dataset_dir: str | os.PathLike) -> Rectangle | None:
    edges = record.get("bbox")
    if edges is None:
        return None
    if not _is_box(edges):
        raise InputError(f"'bbox' must be [left, top, right, bottom] in pixels, not {edges!r}")
    shown = _pictures(pairs)
    if not shown:
        raise InputError("'bbox' is given, but no picture")
    return from_pixels(edges, *read_image(resolve_path(shown[-1], dataset_dir)).size)


def _is_box(edges: Any) -> bool:
    numbers = isinstance(edges, list) and all(isinstance(edge, int | float) for edge in edges)
    return numbers and len(edges) == 4 and 0 <= edges[0] < edges[2] and 0 <= edges[1] < edges[3]
