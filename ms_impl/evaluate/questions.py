"""Records to evaluate: conversations of the usual files, to be answered where the last assistant turn stands.

That turn is the right answer. Instead of it or beside it a record may have ``"answers": [...]``, several people's;
``"choices": [...]``, among which the right answer is; or ``"bbox": [left, top, right, bottom]``, the right box in
pixels of the last image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ms_impl.data.dialogue import Turn
from ms_impl.data.images import read_image, resolve_path
from ms_impl.data.records import parse_record
from ms_impl.data.template import Template
from ms_impl.data.thinking import split_thinking
from ms_impl.errors import InputError, quote
from ms_impl.evaluate.grounding import Target, is_empty

_FARTHEST = 1e9  # pixels; NaN is not below it either


@dataclass(frozen=True)
class Question:
    """One record. ``record`` is how errors name it; ``identity`` its ``id``, or else its number in the file.

    ``target`` is its ``bbox``; ``images`` are the files shown up to the query, as they are written.
    """

    record: str
    identity: Any
    query: str
    history: tuple[Turn, ...]
    references: tuple[str, ...]
    choices: tuple[str, ...] = ()
    target: Target | None = None
    system: str | None = None
    images: tuple[str, ...] = ()


def parse_question(record: Any, number: int, source: str, template: Template) -> Question:
    """A parsed record of a file, as the model of ``template`` is asked. ``source`` names it in errors.

    Raises InputError for a record of another shape.
    """
    conversation = parse_record(record, source)
    try:
        dialogue = template.dialogue(conversation)
        *history, (query, answer) = dialogue.turns
        return Question(
            conversation.record,
            record.get("id", number),
            query=query,
            history=tuple(history),
            references=_texts(record, "answers") or _reference(answer, template),
            choices=_texts(record, "choices"),
            target=_target(record, dialogue.images, template),
            system=dialogue.system,
            images=dialogue.images,
        )
    except InputError as error:
        raise InputError(f"{conversation.record}: {error}") from error


def _reference(answer: str | None, template: Template) -> tuple[str, ...]:
    """The right answer without its thinking, which is not scored."""
    return () if answer is None else (split_thinking(answer, template.think_end)[1],)


def _texts(record: dict[str, Any], key: str) -> tuple[str, ...]:
    texts = record.get(key, [])
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise InputError(f"'{key}' must be a list of texts")
    return tuple(texts)


def _target(record: dict[str, Any], images: Sequence[str], template: Template) -> Target | None:
    edges = record.get("bbox")
    if edges is None:
        return None
    if not _is_box(edges):
        raise InputError(f"'bbox' must be [left, top, right, bottom] in pixels, not {quote(edges)}")
    if not images:
        raise InputError("'bbox' is given, but no image")
    width, height = read_image(resolve_path(images[-1], template.options.dataset_dir)).size
    left, top, right, bottom = map(float, edges)
    target = Target((left, top, right, bottom), (width, height))
    if target.is_outside:
        raise InputError(f"'bbox' {quote(edges)} lies outside its image of {width}×{height} pixels")
    return target


def _is_box(edges: Any) -> bool:
    """Four finite numbers that enclose some of the plane."""
    if not isinstance(edges, list) or len(edges) != 4:
        return False
    numbers = all(isinstance(edge, int | float) and not isinstance(edge, bool) for edge in edges)
    finite = numbers and all(abs(edge) < _FARTHEST for edge in edges)
    return finite and not is_empty(edges)
