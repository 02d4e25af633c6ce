"""Records to evaluate: conversations of the usual files, to be answered where the last assistant turn stands.

That turn is the right answer. Instead of it or beside it a record may have ``"answers": [...]``, several people's;
``"choices": [...]``, among which the right answer is; or ``"bbox": [left, top, right, bottom]``, the right box in
pixels of the last picture.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

from ms_impl.data.chatml import SYSTEM_MESSAGE
from ms_impl.data.conversations import ConversationFormat, Message, messages, require_alternation
from ms_impl.data.images import read_image, resolve_path
from ms_impl.data.records import parse_record
from ms_impl.data.tags import image_paths
from ms_impl.errors import InputError, quote
from ms_impl.evaluate.grounding import Target, is_empty

_FARTHEST = 1e9  # pixels; NaN is not below it either

Pairs = list[tuple[str, str]]  # the user's message and the assistant's


@dataclass(frozen=True)
class Question:
    """One record. ``record`` is how errors name it; ``identity`` its ``id``, or else its number in the file.

    ``target`` is its ``bbox``.
    """

    record: str
    identity: Any
    query: str
    history: tuple[tuple[str, str], ...]
    references: tuple[str, ...]
    choices: tuple[str, ...] = ()
    target: Target | None = None
    system: str = SYSTEM_MESSAGE


def parse_question(
    record: Any, number: int, source: str, style: ConversationFormat, dataset_dir: str | os.PathLike
) -> Question:
    """A parsed record of a file. ``source`` names it in errors. Raises InputError for a record of another shape."""
    conversation = parse_record(record, source)
    try:
        system, turns = messages(conversation, style)
        require_alternation(turns)
        pairs, answer = _pairs(turns)
        given = () if answer is None else (answer,)
        return Question(
            conversation.record,
            record.get("id", number),
            query=pairs[-1][0],
            history=tuple(pairs[:-1]),
            references=_texts(record, "answers") or given,
            choices=_texts(record, "choices"),
            target=_target(record, pairs, dataset_dir),
            system=system,
        )
    except InputError as error:
        raise InputError(f"{conversation.record}: {error}") from error


def pictures(question: Question) -> list[str]:
    """The paths of all pictures that are shown, in order."""
    return _pictures([*question.history, (question.query, "")])


def _pairs(turns: list[Message]) -> tuple[Pairs, str | None]:
    """The messages as the model reads them, the last assistant's empty; and what stood there."""
    answer = turns[-1].text if len(turns) % 2 == 0 else None
    asked = [turn.content for turn in turns[::2]]
    told = [turn.content for turn in turns[1::2]][: len(asked) - 1]
    return list(zip(asked, [*told, ""])), answer


def _pictures(pairs: Pairs) -> list[str]:
    return [path for pair in pairs for text in pair for path in image_paths(text)]


def _texts(record: dict[str, Any], key: str) -> tuple[str, ...]:
    texts = record.get(key, [])
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise InputError(f"'{key}' must be a list of texts")
    return tuple(texts)


def _target(record: dict[str, Any], pairs: Pairs, dataset_dir: str | os.PathLike) -> Target | None:
    edges = record.get("bbox")
    if edges is None:
        return None
    if not _is_box(edges):
        raise InputError(f"'bbox' must be [left, top, right, bottom] in pixels, not {quote(edges)}")
    paths = _pictures(pairs)
    if not paths:
        raise InputError("'bbox' is given, but no picture")
    width, height = read_image(resolve_path(paths[-1], dataset_dir)).size
    left, top, right, bottom = map(float, edges)
    target = Target((left, top, right, bottom), (width, height))
    if target.is_outside:
        raise InputError(f"'bbox' {quote(edges)} lies outside its picture of {width}×{height} pixels")
    return target


def _is_box(edges: Any) -> bool:
    """Four finite numbers that enclose some of the plane."""
    if not isinstance(edges, list) or len(edges) != 4:
        return False
    numbers = all(isinstance(edge, int | float) and not isinstance(edge, bool) for edge in edges)
    finite = numbers and all(abs(edge) < _FARTHEST for edge in edges)
    return finite and not is_empty(edges)
