"""LongVALE's and VTimeLLM's records → records of videos with questions, whose times are hundredths of the clip.

A record has ``id``, ``conversations`` of ``from`` and ``value`` with ``<video>`` in the first question and ``<s0>``,
``<e0>``, … for times, and ``meta`` with the ``duration`` of the clip, the seconds of each time in ``token`` and, where
the clip is a part of its source, ``split``: where it begins and ends there.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeGuard

from ms_impl.errors import InputError, quote

PARTS = 100  # of a clip that times are told in
_ENDINGS = (".mp4", ".mkv", ".webm", ".avi", ".mov")
_TIME = re.compile(r"<[se]\d+>")


def as_hundredth(seconds: float, duration: float) -> str:
    """A time as two digits: hundredths of the clip, rounded half to even, at most 99."""
    return f"{min(round(seconds / duration * PARTS), PARTS - 1):02d}"


def as_seconds(hundredth: int, duration: float, is_end: bool = False) -> float:
    """The way back: where a hundredth begins, or where it ends."""
    return (hundredth + is_end) * duration / PARTS


def converted(record: Any, video_root: str | os.PathLike, source: str) -> dict[str, Any]:
    """The record in ms-swift's layout, its times filled in. ``source`` names it in errors.

    Raises InputError for a record of another form, a time that ``meta`` does not tell or that lies outside the clip,
    and a video that is not there.
    """
    name = f"{source} (id {quote(record.get('id'))})" if isinstance(record, dict) else source
    try:
        return _converted(record, Path(video_root))
    except InputError as error:
        raise InputError(f"{name}: {error}") from error


def _converted(record: Any, root: Path) -> dict[str, Any]:
    if not isinstance(record, dict) or not isinstance(record.get("conversations"), list) or not record.get("id"):
        raise InputError("a record has an 'id' and a list of 'conversations'")
    meta = record.get("meta") or {}
    if not isinstance(meta, dict):
        raise InputError(f"'meta' must be a table, not {quote(meta)}")
    turns = record["conversations"]
    if not all(isinstance(turn, dict) and isinstance(turn.get("value"), str) for turn in turns):
        raise InputError("each of 'conversations' has 'from' and a text 'value'")
    roles = {"human": "user", "gpt": "assistant"}
    messages = [
        {"role": roles.get(turn.get("from"), turn.get("from")), "content": _with_times(turn["value"], meta)}
        for turn in turns
    ]
    told: dict[str, Any] = {"path": _video(root, str(record["id"]))}
    if meta.get("split") is not None:
        told |= dict(zip(("video_start", "video_end"), _span(meta["split"])))
    return {"id": record["id"], "messages": messages, "videos": [told]}


def _with_times(text: str, meta: Mapping[str, Any]) -> str:
    def digits(match: re.Match[str]) -> str:
        tokens, duration = meta.get("token"), meta.get("duration")
        seconds = tokens.get(match[0]) if isinstance(tokens, dict) else None
        if not _is_number(seconds) or not _is_number(duration) or duration <= 0:
            raise InputError(f"the text holds {match[0]}, but 'meta' does not tell its seconds and the 'duration'")
        if not 0 <= seconds <= duration + 1:
            raise InputError(f"{match[0]} is second {seconds:g}, outside the clip of {duration:g} s")
        return as_hundredth(seconds, duration)

    return _TIME.sub(digits, text)


def _span(split: Any) -> tuple[float, float]:
    if (
        not isinstance(split, list)
        or len(split) != 2
        or not all(map(_is_number, split))
        or not 0 <= split[0] < split[1]
    ):
        raise InputError(f"'split' must be where the clip begins and ends in seconds, not {quote(split)}")
    return split[0], split[1]


def _video(root: Path, name: str) -> str:
    """The video of that id: its file's name without or with an ending."""
    if Path(name).name != name:
        raise InputError(f"'id' {quote(name)} is not the name of a file")
    for ending in ("", *_ENDINGS):
        if (root / f"{name}{ending}").is_file():
            return f"{name}{ending}"
    raise InputError(f"no video '{name}' in '{root}' ({', '.join(_ENDINGS)})")


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e9
