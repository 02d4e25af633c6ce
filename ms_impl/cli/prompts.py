"""``--predict_data`` and ``--modal_type``: the prompts that a command line gives."""

from __future__ import annotations

import os
from collections.abc import Sequence

from ms_impl.cli.kinds import suggest
from ms_impl.data.images import resolve_path
from ms_impl.errors import InputError, quote

MODALITIES = ("image", "text")
Prompt = list[dict[str, str]]  # in list format

_ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif", ".jp2", ".tga", ".ico")


def queries(data: Sequence[str], modalities: Sequence[str] | None) -> list[Prompt]:
    """Prompts from the data and what each datum of one prompt is; more data are further prompts of the same pattern.

    Without modalities each datum is a prompt of text; or all are one prompt, images and then a text.

    Raises:
        InputError: the data do not fill the pattern, an image is not found, or it is not clear what is an image.
    """
    pattern = list(modalities or _inferred(data))
    if unknown := [modality for modality in pattern if modality not in MODALITIES]:
        raise InputError(f"--modal_type: unknown {quote(unknown[0])}{suggest(unknown[0], MODALITIES)}")
    if not data or len(data) % len(pattern):
        raise InputError(
            f"--predict_data: {len(data)} items do not fill prompts of --modal_type {' '.join(pattern)[:80]}; "
            f"give {len(pattern)} for each prompt"
        )
    starts = range(0, len(data), len(pattern))
    return [[{kind: datum} for kind, datum in zip(pattern, data[start:])] for start in starts]


def check_images(prompts: Sequence[Prompt]) -> None:
    """Raise InputError for an image that is a URL or not found."""
    for path in (element["image"] for prompt in prompts for element in prompt if "image" in element):
        if not os.path.isfile(resolve_path(path)):
            raise InputError(f"--predict_data: image file {quote(path)} not found")


def _inferred(data: Sequence[str]) -> list[str]:
    pattern = ["image" if _seems_image(datum) else "text" for datum in data]
    if "image" not in pattern:
        return ["text"]
    if pattern.index("text") == len(pattern) - 1 if "text" in pattern else False:
        return pattern
    image = data[pattern.index("image")]
    raise InputError(
        f"--modal_type: is not given, and {quote(image)} seems to be an image; say what the items of one prompt are, "
        "as --modal_type image text"
    )


def _seems_image(datum: str) -> bool:
    """Whether a datum is a file, or could only be meant as one."""
    return os.path.isfile(datum) or (datum.lower().endswith(_ENDINGS) and not any(map(str.isspace, datum)))
