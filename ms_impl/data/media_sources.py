"""The media of a record: which there are, where they are read from, and which placeholder each belongs to."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from ms_impl.data.inline_media import file_of_base64, file_of_url
from ms_impl.data.tags import IMAGE_START, shorten, whole_text
from ms_impl.errors import InputError, listed, quote

IMAGE, VIDEO, AUDIO = "image", "video", "audio"
PLACEHOLDERS = {IMAGE: "<image>", VIDEO: "<video>", AUDIO: "<audio>"}

_ANY_PLACEHOLDER = re.compile("<(image|video|audio)>")
_KEYS = {IMAGE: ("image", "images"), VIDEO: ("video", "videos", "video_frames"), AUDIO: ("audio", "audios")}
_SCHEME = re.compile(r"([a-z][a-z0-9+.-]*)://|(data):", re.IGNORECASE)
_IMAGE_NAMES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm"}
_SOURCE_KEYS = ("url", "path", "bytes", "data")  # of a table: what else it has are options
_WITHOUT_EFFECT = {"detail", "format"}  # of OpenAI's parts: they speak of how a server reads what it is sent

Source = str | tuple[str, ...]  # the path of a file; the frame files of a video


@dataclass(frozen=True)
class Medium:
    """One medium of a conversation: an image, a video or a sound.

    ``options`` are what its record says of how it is read, by name, such as ``video_start`` and ``fps``; which of them
    there are, and what they mean, is the template's.
    """

    kind: str
    source: Source
    options: tuple[tuple[str, Any], ...] = ()


def split_placeholders(text: str, kinds: Collection[str]) -> list[tuple[str, str]]:
    """Cut text into ("text", …) and (kind, placeholder) in order, at the placeholders of ``kinds``."""
    pieces, end = [], 0
    for match in _ANY_PLACEHOLDER.finditer(text):
        if match[1] in kinds:
            pieces += [("text", text[end : match.start()]), (match[1], match[0])]
            end = match.end()
    return [(kind, piece) for kind, piece in [*pieces, ("text", text[end:])] if piece]


def require_kinds(media: Sequence[Medium], texts: Sequence[str], takes: Mapping[str, Collection[str]]) -> None:
    """Raise InputError for media that a model does not take, or options of theirs that it does not know.

    ``takes`` has the names of the options by kind. Also for a placeholder of such a kind without a medium: where a
    record gives no video, ``<video>`` is text to a model that takes none.
    """
    for number, medium in enumerate(media):
        if medium.kind not in takes:
            raise InputError(f"{_one(medium.kind)} is given, but the model takes {_plural(takes)} only; remove it")
        if unknown := [name for name, _ in medium.options if name not in takes[medium.kind]]:
            raise InputError(f"medium {number}, {shorten(str(medium.source))!r}: unknown {listed(unknown)}; remove it")
    given = {medium.kind for medium in media}
    for kind in set(takes) - given:
        if count := sum(text.count(PLACEHOLDERS[kind]) for text in texts):
            raise _different(kind, count, 0)


def media_beside(record: Mapping[str, Any]) -> dict[str, list[Medium]]:
    """The media that a record lists beside its turns, by kind."""
    return {kind: media for kind in PLACEHOLDERS if (media := _listed(record, kind))}


def media_of_part(part: Mapping[str, Any], kind: str, name: str) -> list[Medium]:
    """What a part of a message's content shows; nothing where the record lists its media elsewhere.

    What stands in the part itself, as base64, is put into a file. ``name`` is how errors name the part.
    """
    keys = (f"{kind}_url", f"input_{kind}", kind, "path", "url")
    given = [key for key in keys if part.get(key) is not None]
    if not given:
        if part["type"] == kind:
            return []
        raise InputError(f"{name} must be the path of a file, not {quote(None)}")
    options = {key: value for key, value in part.items() if key not in ("type", given[0])}
    medium = _medium(_filed(part[given[0]], kind, name), kind, name)
    return [Medium(kind, medium.source, _options({**dict(medium.options), **options}, name))]


def in_order(
    beside: Mapping[str, list[Medium]], own: Mapping[str, list[Medium]], texts: Sequence[str]
) -> tuple[Medium, ...]:
    """The media, one for each placeholder in ``texts``, from those beside the turns and those that stand in them.

    Images that inline mark-up shows already are not named twice. Raises InputError unless there are as many of a kind
    as placeholders.
    """
    for kind in beside.keys() & own.keys():
        raise InputError(f"{kind}s are given both in the turns and beside them; keep one")
    media = {**beside, **own}
    inline = sum(text.count(IMAGE_START) for text in texts)
    images = len(media.get(IMAGE, ()))
    if not any(PLACEHOLDERS[IMAGE] in text for text in texts) and 0 < images <= inline:
        del media[IMAGE]
    for kind in (IMAGE, *(media.keys() - {IMAGE})):
        placeholders = sum(text.count(PLACEHOLDERS[kind]) for text in texts)
        if placeholders != len(media.get(kind, ())):
            raise _different(kind, placeholders, len(media.get(kind, ())))
    if media.get(IMAGE) and inline:
        raise InputError(f"{PLACEHOLDERS[IMAGE]} and {IMAGE_START} in one conversation; use one of them")
    rest = {kind: iter(given) for kind, given in media.items()}
    return tuple(next(rest[kind]) for text in texts for kind in _kinds_in(text, media))


def _kinds_in(text: str, kinds: Collection[str]) -> Iterator[str]:
    return (match[1] for match in _ANY_PLACEHOLDER.finditer(text) if match[1] in kinds)


def _different(kind: str, placeholders: int, given: int) -> InputError:
    count = f"{given} {kind}s are" if given != 1 or kind == IMAGE else f"1 {kind} is"
    return InputError(f"{placeholders} {PLACEHOLDERS[kind]} in its turns, but {count} given; there must be as many")


def _plural(kinds: Collection[str]) -> str:
    return " and ".join(f"{kind}s" for kind in PLACEHOLDERS if kind in kinds) or "text"


def _listed(record: Mapping[str, Any], kind: str) -> list[Medium]:
    given = [key for key in _KEYS[kind] if record.get(key) not in (None, "", [])]
    if len(given) > 1:
        raise InputError(f"both '{given[0]}' and '{given[1]}' are given; keep one")
    if not given:
        return []
    value, name = record[given[0]], f"'{given[0]}'"
    if kind == VIDEO and _are_frames(value, given[0]):
        value = [value]
    return [_medium(item, kind, name) for item in (value if isinstance(value, list) else [value])]


def _are_frames(value: Any, key: str) -> bool:
    """Whether a list is the frames of one video, and not several videos."""
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        return False
    return (
        key == "video_frames" or key == "video" and all(PurePath(item).suffix.lower() in _IMAGE_NAMES for item in value)
    )


def _filed(item: Any, kind: str, name: str) -> Any:
    """What a part gives, with the path of a file in place of base64 (OpenAI's ``data`` of sounds) or a data: URL."""
    if isinstance(item, dict) and isinstance(item.get("data"), str):
        return {**{key: value for key, value in item.items() if key != "data"},
                "path": file_of_base64(item["data"], f"{name}: 'data'")}  # fmt: skip
    if isinstance(item, dict) and isinstance(item.get("url"), str):
        return {**item, "url": _filed(item["url"], kind, name)}
    if isinstance(item, str) and item[:5].lower() == "data:":
        return file_of_url(item, kind, name)
    return item


def _medium(item: Any, kind: str, name: str) -> Medium:
    """A medium as a path, a table with a path, or, of a video, a list of frame files."""
    options: dict[str, Any] = {}
    if isinstance(item, dict) and item.get("bytes") is None:
        if item.get("data") is not None:
            raise InputError(f"{name} has {_one(kind)} inside the record ('data'); save it as a file and give its path")
        options = {key: value for key, value in item.items() if key not in _SOURCE_KEYS}
        item = item.get("path") if item.get("url") is None else item["url"]
    if kind == VIDEO and isinstance(item, list) and item:
        source: Source = tuple(_path(frame, kind, name) for frame in item)
    else:
        source = _path(item, kind, name)
    return Medium(kind, source, _options(options, name))


def _options(options: Mapping[str, Any], name: str) -> tuple[tuple[str, Any], ...]:
    given = {key: value for key, value in options.items() if value is not None and key not in _WITHOUT_EFFECT}
    for key, value in given.items():
        if not isinstance(value, str | int | float) or isinstance(value, str) and len(value) > 1000:
            raise InputError(f"{name}: {quote(key)} must be a number, true, false or a word, not {quote(value)}")
    return tuple(sorted(given.items()))


def _path(item: Any, kind: str, name: str) -> str:
    """A path as written, or as a file: URL."""
    if not isinstance(item, str) or not item:
        raise InputError(f"{name} must be the path of a file or a list of them, not {quote(item)}")
    path = whole_text(item)
    if not (url := _SCHEME.match(path)):
        return path
    if url[2]:
        raise InputError(f"{name} is a data: URL, {_one(kind)} inside the record; save it as a file and give its path")
    if not path.lower().startswith("file:///") or "%" in path:
        raise InputError(f"{name} {shorten(path)!r} is a URL; download it yourself and give the path of the file")
    return path[len("file://") :]


def _one(kind: str) -> str:
    return f"{'a' if kind == VIDEO else 'an'} {kind}"
