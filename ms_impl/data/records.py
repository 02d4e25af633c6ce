"""One record of a data file, in any of its layouts → a conversation.

- ``conversations`` of ``from`` and ``value``, images inline as ``<img>path</img>``, or as ``<image>`` and
  ``<video>`` with ``image`` and ``video`` beside them (LLaVA);
- ``messages`` of ``role`` and ``content`` with ``images``, ``videos``, ``audios`` and ``objects`` (ms-swift); the
  content may be OpenAI's list of parts;
- ``query`` and ``response`` with a ``history`` of such pairs (ms-swift).

A conversation has one form: ``<image>``, ``<video>`` or ``<audio>`` in a turn's text for each of its ``media``, in
order. Inline mark-up stays text: it is the family's.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ms_impl.data.chatml import ASSISTANT, SYSTEM, USER
from ms_impl.data.media_sources import (
    AUDIO,
    IMAGE,
    PLACEHOLDERS,
    VIDEO,
    Medium,
    in_order,
    media_beside,
    media_of_part,
)
from ms_impl.data.objects import Objects, parse_objects
from ms_impl.data.tags import whole_text
from ms_impl.errors import InputError, quote

_LISTS = ("conversations", "messages")
_KEYS = {"conversations": ("from", "value"), "messages": ("role", "content")}
_PART_KINDS = {
    "image": IMAGE, "image_url": IMAGE, "video": VIDEO, "video_url": VIDEO, "audio": AUDIO, "audio_url": AUDIO,
    "input_audio": AUDIO,
}  # fmt: skip
_HEAVIEST = 1e6  # of a loss_scale


@dataclass(frozen=True)
class Turn:
    """One message: who speaks, in the record's own word, and what.

    ``trained`` is the record's own word on it (``"loss": false``); None: as the rule of the labels says. ``loss_scale``
    is what its labels count, beside 1 of others; at 0 it is not trained.
    """

    role: str
    text: str
    trained: bool | None = None
    loss_scale: float = 1.0


@dataclass(frozen=True)
class Conversation:
    """One record of a file; ``record`` is how errors name it.

    ``media`` has one for each placeholder in ``system`` and the turns, in order. ``objects`` fill ``<ref-object>`` and
    ``<bbox>``. ``standard_roles``: the roles are user and assistant whatever words the data set's settings have for
    them.
    """

    record: str
    turns: tuple[Turn, ...]
    media: tuple[Medium, ...] = ()
    system: str | None = None
    standard_roles: bool = False
    objects: Objects | None = None


def parse_record(record: Any, source: str) -> Conversation:
    """One record of a parsed file. ``source`` names it in errors, together with its ``id``.

    Raises InputError for a record of another layout, for what this project cannot train on (tools), for media and
    placeholders that differ in number, and for a URL: nothing is fetched.
    """
    if isinstance(record, dict) and "id" in record:
        source = f"{source} (id {quote(record['id'])})"
    try:
        return _conversation(record, source)
    except InputError as error:
        raise InputError(f"{source}: {error}") from error


def is_record(keys: Iterable[str]) -> bool:
    """Whether a table with these keys is a record, and not one turn of one."""
    keys = set(keys)
    return not keys.isdisjoint(_LISTS) or keys.isdisjoint(key for pair in _KEYS.values() for key in pair)


def _conversation(record: Any, source: str) -> Conversation:
    key, items = _items(record)
    if not items:
        raise InputError("the conversation is empty")
    if record.get("tools"):
        raise InputError("'tools' is given, but only text and media can be trained on")
    keys = _turn_keys(items[0], key)
    own: dict[str, list[Medium]] = {}  # those that stand in the turns themselves, by kind
    turns = [_turn(item, keys, f"turn {number}", own) for number, item in enumerate(items)]
    system, turns = _split_system(record, turns)
    texts = [system or "", *(turn.text for turn in turns)]
    media = in_order(media_beside(record), own, texts)
    images = sum(medium.kind == IMAGE for medium in media)
    objects = parse_objects(record.get("objects"), texts, images)
    return Conversation(source, tuple(turns), media, system, keys[0] == "role", objects)


def _items(record: Any) -> tuple[str, list[Any]]:
    """The key that a record's turns stand under, and the turns."""
    given = [key for key in _LISTS if isinstance(record, dict) and record.get(key) is not None]
    if len(given) > 1:
        raise InputError(f"both '{given[0]}' and '{given[1]}' are given; keep one")
    if not given and isinstance(record, dict) and record.get("query") is not None:
        return "messages", _from_pairs(record)
    key = given[0] if given else _LISTS[0]
    return key, _field(record, key, list)


def _from_pairs(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The messages of a record of ``query``, ``response`` and a ``history`` of such pairs."""
    pairs = [] if record.get("history") is None else _field(record, "history", list)
    for number, pair in enumerate(pairs):
        if not isinstance(pair, list) or len(pair) != 2:
            raise InputError(f"'history' must be a list of [query, response]; item {number} is {quote(pair)}")
    response = record.get("response")
    whole = [*pairs, [record["query"], response]]
    items = [{"role": role, "content": text} for pair in whole for role, text in zip((USER, ASSISTANT), pair)]
    return items if response is not None else items[:-1]


def _turn_keys(first: Any, key: str) -> tuple[str, str]:
    """A turn's keys: those usual for its list, or the other's where the first turn has them."""
    others = [keys for keys in _KEYS.values() if isinstance(first, dict) and keys[0] in first]
    return others[0] if len(others) == 1 else _KEYS[key]


def _turn(turn: Any, keys: tuple[str, str], name: str, own: dict[str, list[Medium]]) -> Turn:
    try:
        role = whole_text(_field(turn, keys[0], str))
        for unsupported in ("tool_calls", "function_call"):
            if turn.get(unsupported):
                raise InputError(f"'{unsupported}' is given, but only text and media can be trained on")
        if isinstance(turn.get(keys[1]), list):
            text = _joined(turn[keys[1]], own)
        else:
            text = whole_text(_field(turn, keys[1], str))
        return Turn(role, text, *_loss(turn, is_message=keys[0] == "role"))
    except InputError as error:
        raise InputError(f"{name}: {error}") from error


def _loss(turn: Mapping[str, Any], is_message: bool) -> tuple[bool | None, float]:
    """Whether a turn is trained, and what its labels count.

    ``loss`` and ``loss_scale`` (ms-swift) say so, and in messages also ``weight`` (OpenAI).
    """
    trained, scale = turn.get("loss"), 1.0
    if trained is not None and not isinstance(trained, bool):
        raise InputError(f"'loss' must be true or false, not {quote(trained)}; 'loss_scale' takes numbers")
    for key in ("loss_scale", "weight") if is_message else ("loss_scale",):
        given = turn.get(key)
        if given is None:
            continue
        if isinstance(given, bool) or not isinstance(given, int | float) or not 0 <= given <= _HEAVIEST:
            raise InputError(f"'{key}' must be a number of at least 0, not {quote(given)}")
        trained = bool(given) if trained is None else trained and bool(given)
        scale *= given
    return trained, scale


def _split_system(record: Mapping[str, Any], turns: list[Turn]) -> tuple[str | None, list[Turn]]:
    """The record's own system message, which is its first turn or under its key ``system``, and the other turns."""
    system = None if record.get("system") is None else whole_text(_field(record, "system", str))
    if turns[0].role == SYSTEM:
        if system not in (None, turns[0].text):
            raise InputError("'system' is given, and another system message as turn 0; keep one")
        if turns[0].trained:
            raise InputError("turn 0: 'loss' is true, but a system message is not trained")
        system, turns = turns[0].text, turns[1:]
    if any(turn.role == SYSTEM for turn in turns):
        raise InputError("a system message stands between the turns; it must be the first")
    return system, turns


def _joined(parts: Sequence[Any], own: dict[str, list[Medium]]) -> str:
    """The text of a list of parts, with a placeholder for each medium; media that stand in the parts are collected."""
    pieces = []
    for number, part in enumerate(parts):
        given = part.get("type") if isinstance(part, dict) else None
        kind = _PART_KINDS.get(given) if isinstance(given, str) else None
        if given == "text":
            pieces.append(whole_text(_field(part, "text", str)))
        elif kind:
            pieces.append(PLACEHOLDERS[kind])
            if media := media_of_part(part, kind, f"part {number}"):
                own.setdefault(kind, []).extend(media)
        else:
            raise InputError(f"part {number}: its 'type' must be text, {', '.join(_PART_KINDS)}, not {quote(given)}")
    return "".join(pieces)


def _field(record: Any, key: str, kind: type) -> Any:
    if not isinstance(record, dict) or key not in record:
        raise InputError(f"'{key}' is missing")
    if not isinstance(record[key], kind):
        raise InputError(f"'{key}' must be a {kind.__name__}, not {type(record[key]).__name__}")
    return record[key]
