"""``--predict_data`` and ``--modal_type``: the prompts that a command line gives."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

from ms_impl.cli.kinds import suggest
from ms_impl.cli.media_paths import ENDINGS, Source, medium_path
from ms_impl.data.media_sources import IMAGE, PLACEHOLDERS, VIDEO
from ms_impl.errors import InputError, quote

TEXT = "text"
MODALITIES = (*PLACEHOLDERS, TEXT)
Prompt = list[dict[str, Source]]  # in list format


def queries(
    data: Sequence[str], modalities: Sequence[str] | None, takes: Sequence[str] = tuple(PLACEHOLDERS)
) -> list[Prompt]:
    """Prompts from the data and what each datum of one prompt is; more data are further prompts of the same pattern.

    Without modalities each datum is a prompt of text; or all are one prompt, media and then a text. ``takes`` are the
    media of the model.

    Raises:
        InputError: the data do not fill the pattern, a file is not found, or it is not clear what is a medium.
    """
    pattern = list(modalities or _inferred(data))
    known = (*takes, TEXT)
    if unknown := [modality for modality in pattern if modality not in known]:
        if unknown[0] in MODALITIES:
            raise InputError(f"--modal_type: this model takes no {unknown[0]}; it takes {', '.join(known)}")
        raise InputError(f"--modal_type: unknown {quote(unknown[0])}{suggest(unknown[0], known)}")
    if not data or len(data) % len(pattern):
        raise InputError(
            f"--predict_data: {len(data)} items do not fill prompts of --modal_type {' '.join(pattern)[:80]}; "
            f"give {len(pattern)} for each prompt"
        )
    starts = range(0, len(data), len(pattern))
    return [[{kind: datum} for kind, datum in zip(pattern, data[start:])] for start in starts]


def with_files(prompts: Sequence[Prompt]) -> list[Prompt]:
    """Prompts with the files of their media, of a video's directory its frames. Raises InputError for a URL, for what
    is not there, and as ``media_paths.frames_in``."""
    try:
        return [[_with_file(element) for element in prompt] for prompt in prompts]
    except InputError as error:
        raise InputError(f"--predict_data: {error}") from error


def _with_file(element: Mapping[str, Source]) -> dict[str, Source]:
    ((kind, datum),) = element.items()
    return {kind: datum if kind == TEXT or not isinstance(datum, str) else medium_path(kind, datum)}


def _inferred(data: Sequence[str]) -> list[str]:
    pattern = [_kind_of(datum) for datum in data]
    if all(kind == TEXT for kind in pattern):
        return [TEXT]
    if pattern.index(TEXT) == len(pattern) - 1 if TEXT in pattern else False:
        return pattern
    datum, kind = next((datum, kind) for datum, kind in zip(data, pattern) if kind != TEXT)
    raise InputError(
        f"--modal_type: is not given, and {quote(datum)} seems to be {'a' if kind == VIDEO else 'an'} {kind}; say what "
        f"the items of one prompt are, as --modal_type {kind} text"
    )


def _kind_of(datum: str) -> str:
    """What a datum is: a file, or what could only be meant as one, by its ending; any other file is an image."""
    is_file = os.path.isfile(datum)
    for kind, endings in ENDINGS.items():
        if datum.lower().endswith(endings) and (is_file or not any(map(str.isspace, datum))):
            return kind
    return IMAGE if is_file else TEXT
