"""The options of Qwen-VL's template."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from ms_impl.data.conversations import ConversationFormat
from ms_impl.data.images import CLIP_MEAN, CLIP_STD
from ms_impl.errors import InputError, listed


@dataclass(frozen=True)
class QwenVLOptions(ConversationFormat):
    """What a YAML says of Qwen-VL's template.

    ``modal_content_padding_size`` is the number of images that each row has room for; None: as many as any row of the
    data needs. Images lie in ``dataset_dir``; a path that leaves it through ``..`` is refused unless
    ``allow_outside_dataset_dir``. ``mean`` and ``std`` of the colours are modal_content_transforms'. ``image_size`` is
    that of the model's configuration. ``mode`` and ``output_columns`` are of old YAMLs.
    """

    dataset_dir: str = ""
    allow_outside_dataset_dir: bool = False
    modal_content_padding_size: int | None = None
    mean: tuple[float, ...] = CLIP_MEAN
    std: tuple[float, ...] = CLIP_STD
    image_size: int | None = None
    mode: Literal["train"] = "train"
    output_columns: tuple[str, ...] = ()


def read_options(given: Mapping[str, Any]) -> QwenVLOptions:
    """Options by name. Raises InputError for one that there is not."""
    known = [field.name for field in dataclasses.fields(QwenVLOptions)]
    if unknown := [name for name in given if name not in known]:
        raise InputError(f"unknown option {listed(unknown)}; the template has {', '.join(known)}")
    return QwenVLOptions(**{key: tuple(value) if isinstance(value, list) else value for key, value in given.items()})
