"""One record of a data file, in any of its layouts → a conversation.

- ``conversations`` of ``from`` and ``value``, images inline as ``<img>path</img>`` (Qwen-VL's own files), or as
  ``<image>`` with ``"image": path or list`` beside them (LLaVA, Ovis);
- ``messages`` of ``role`` and ``content`` with ``images`` (ms-swift); the content may be OpenAI's list of parts.

A conversation has one form: ``<image>`` in a turn's text for each of its ``images``, in order. Inline mark-up stays
text: it is the family's.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ms_impl.data.chatml import SYSTEM
from ms_impl.data.tags import IMAGE_START, shorten
from ms_impl.errors import InputError, quote

PLACEHOLDER = "<image>"

# What would change the training if it were passed over in silence.
_UNSUPPORTED = ("video", "videos", "video_frames", "audio", "audios", "objects", "tools")
_LISTS = ("conversations", "messages")
_KEYS = {"conversations": ("from", "value"), "messages": ("role", "content")}
_SCHEME = re.compile(r"([a-z][a-z0-9+.-]*)://|(data):", re.IGNORECASE)


@dataclass(frozen=True)
class Turn:
    """One message: who speaks, in the record's own word, and what.

    ``trained`` is the record's own word on it (``"loss": false``); None: as the rule of the labels says.
    """

    role: str
    text: str
    trained: bool | None = None


@dataclass(frozen=True)
class Conversation:
    """One record of a file; ``record`` is how errors name it.

    ``images`` has the path of each ``<image>`` in ``system`` and the turns, in order. ``standard_roles``: the roles
    are user and assistant whatever words the data set's settings have for them.
    """

    record: str
    turns: tuple[Turn, ...]
    images: tuple[str, ...] = ()
    system: str | None = None
    standard_roles: bool = False


def parse_record(record: Any, source: str) -> Conversation:
    """One record of a parsed file. ``source`` names it in errors, together with its ``id``.

    Raises InputError for a record of another layout, for what this project cannot train on (videos, tools, a fractional
    ``loss_scale``), for images and ``<image>`` that differ in number, and for a URL: nothing is fetched.
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
    key = _list_key(record)
    items = _field(record, key, list)
    if not items:
        raise InputError("the conversation is empty")
    for unsupported in _UNSUPPORTED:
        if record.get(unsupported):
            raise InputError(f"'{unsupported}' is given, but only text and images can be trained on")
    keys = _turn_keys(items[0], key)
    own_images: list[str] = []  # those that stand in the turns themselves
    turns = [_turn(item, keys, f"turn {number}", own_images) for number, item in enumerate(items)]
    system, turns = _split_system(record, turns)
    texts = [system or "", *(turn.text for turn in turns)]
    return Conversation(source, tuple(turns), _matched(_images(record), own_images, texts), system, keys[0] == "role")


def _list_key(record: Any) -> str:
    given = [key for key in _LISTS if isinstance(record, dict) and record.get(key) is not None]
    if len(given) > 1:
        raise InputError(f"both '{given[0]}' and '{given[1]}' are given; keep one")
    return given[0] if given else _LISTS[0]


def _turn_keys(first: Any, key: str) -> tuple[str, str]:
    """A turn's keys: those usual for its list, or the other's where the first turn has them."""
    others = [keys for keys in _KEYS.values() if isinstance(first, dict) and keys[0] in first]
    return others[0] if len(others) == 1 else _KEYS[key]


def _turn(turn: Any, keys: tuple[str, str], name: str, own_images: list[str]) -> Turn:
    try:
        role = _text(_field(turn, keys[0], str))
        for unsupported in ("tool_calls", "function_call"):
            if turn.get(unsupported):
                raise InputError(f"'{unsupported}' is given, but only text and images can be trained on")
        if isinstance(turn.get(keys[1]), list):
            text = _joined(turn[keys[1]], own_images)
        else:
            text = _text(_field(turn, keys[1], str))
        return Turn(role, text, _trained(turn, is_message=keys[0] == "role"))
    except InputError as error:
        raise InputError(f"{name}: {error}") from error


def _trained(turn: Mapping[str, Any], is_message: bool) -> bool | None:
    """``loss`` (ms-swift), or in messages also ``weight`` (OpenAI) and ``loss_scale``, as far as they say yes or no."""
    loss = turn.get("loss")
    if loss is not None and not isinstance(loss, bool):
        raise InputError(f"'loss' must be true or false, not {quote(loss)}")
    for key in ("loss_scale", "weight") if is_message else ("loss_scale",):
        scale = turn.get(key)
        if scale is None:
            continue
        if isinstance(scale, bool) or scale not in (0, 1):
            raise InputError(f"'{key}' is {quote(scale)}: only 0 and 1 are supported, or 'loss': false")
        loss = bool(scale) if loss is None else loss and bool(scale)
    return loss


def _split_system(record: Mapping[str, Any], turns: list[Turn]) -> tuple[str | None, list[Turn]]:
    """The record's own system message, which is its first turn or under its key ``system``, and the other turns."""
    system = None if record.get("system") is None else _text(_field(record, "system", str))
    if turns[0].role == SYSTEM:
        if system not in (None, turns[0].text):
            raise InputError("'system' is given, and another system message as turn 0; keep one")
        if turns[0].trained:
            raise InputError("turn 0: 'loss' is true, but a system message is not trained")
        system, turns = turns[0].text, turns[1:]
    if any(turn.role == SYSTEM for turn in turns):
        raise InputError("a system message stands between the turns; it must be the first")
    return system, turns


def _images(record: Mapping[str, Any]) -> list[str]:
    """The paths under ``image`` or ``images``: one or a list."""
    given = [key for key in ("image", "images") if record.get(key) not in (None, "", [])]
    if len(given) > 1:
        raise InputError("both 'image' and 'images' are given; keep one")
    if not given:
        return []
    value = record[given[0]]
    return [_path(item, f"'{given[0]}'") for item in (value if isinstance(value, list) else [value])]


def _path(item: Any, name: str) -> str:
    """A path as written, as ``{"path": …}`` or as a file: URL."""
    if isinstance(item, dict) and set(item) <= {"path", "bytes"} and item.get("bytes") is None:
        item = item.get("path")
    if not isinstance(item, str) or not item:
        raise InputError(f"{name} must be the path of a file or a list of them, not {quote(item)}")
    path = _text(item)
    if not (url := _SCHEME.match(path)):
        return path
    if url[2]:
        raise InputError(f"{name} is a data: URL, an image inside the record; save it as a file and give its path")
    if not path.lower().startswith("file:///") or "%" in path:
        raise InputError(f"{name} {shorten(path)!r} is a URL; download it yourself and give the path of the file")
    return path[len("file://") :]


def _joined(parts: Sequence[Any], own_images: list[str]) -> str:
    """The text of a list of parts, with a placeholder for each image; paths that stand in the parts are collected."""
    pieces = []
    for number, part in enumerate(parts):
        kind = part.get("type") if isinstance(part, dict) else None
        if kind == "text":
            pieces.append(_text(_field(part, "text", str)))
        elif kind in ("image", "image_url"):
            pieces.append(PLACEHOLDER)
            own_images += _path_of_part(part, f"part {number}")
        else:
            raise InputError(f"part {number}: its 'type' must be text, image or image_url, not {quote(kind)}")
    return "".join(pieces)


def _path_of_part(part: Mapping[str, Any], name: str) -> list[str]:
    """The path that an image's part gives; none where the record lists its images elsewhere."""
    given = [part[key] for key in ("image_url", "image", "path", "url") if part.get(key) is not None]
    if not given and part["type"] == "image":
        return []
    value = given[0] if given else None
    return [_path(value.get("url") if isinstance(value, dict) and "url" in value else value, name)]


def _matched(listed: list[str], own_images: list[str], texts: Sequence[str]) -> tuple[str, ...]:
    """The images, one for each placeholder. Images that inline mark-up shows already are not named twice."""
    if listed and own_images:
        raise InputError("images are given both in the turns and beside them; keep one")
    images = own_images or listed
    placeholders = sum(text.count(PLACEHOLDER) for text in texts)
    inline = sum(text.count(IMAGE_START) for text in texts)
    if placeholders == 0 and 0 < len(images) <= inline:
        return ()
    if placeholders != len(images):
        raise InputError(
            f"{placeholders} {PLACEHOLDER} in its turns, but {len(images)} images are given; there must be as many"
        )
    if images and inline:
        raise InputError(f"{PLACEHOLDER} and {IMAGE_START} in one conversation; use one of them")
    return tuple(images)


def _text(text: str) -> str:
    """The text itself, unless half of a character stands in it, which no file and no tokenizer takes."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        half = ascii(text[error.start])
        raise InputError(f"half of a surrogate pair, {half}, in {ascii(shorten(text))}; its text is damaged") from error
    return text


def _field(record: Any, key: str, kind: type) -> Any:
    if not isinstance(record, dict) or key not in record:
        raise InputError(f"'{key}' is missing")
    if not isinstance(record[key], kind):
        raise InputError(f"'{key}' must be a {kind.__name__}, not {type(record[key]).__name__}")
    return record[key]
