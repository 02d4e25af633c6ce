"""What goes along with the weights: the configuration and the small files beside it, as the tokenizer's."""

from __future__ import annotations

import json
from collections.abc import Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from ms_impl.errors import InputError
from ms_impl.io.dtypes import BF16, FP16, FP32, DType

CONFIG_NAME = "config.json"

_PATTERNS = ("*.json", "*.jinja", "*.model", "*.py", "*.tiktoken", "*.txt", "LICENSE*", "NOTICE*")
_NEVER = ("*.index.json", "adapter_config.json")  # of other weights; beside these they would be believed

_DTYPE_KEYS = ("torch_dtype", "dtype")  # the second since transformers 4.56
_DTYPE_NAMES = {FP32: "float32", FP16: "float16", BF16: "bfloat16"}


def is_checkpoint_asset(name: str) -> bool:
    """Whether a file of that name goes along with the weights."""
    return any(fnmatchcase(name, pattern) for pattern in _PATTERNS) and not any(
        fnmatchcase(name, pattern) for pattern in _NEVER
    )


def find_config(checkpoint: Path, given: Path | None) -> Path:
    """The config.json of a checkpoint: in its directory, or where ``given`` (the file or its directory) says."""
    if not checkpoint.exists():
        raise InputError(f"{checkpoint}: no such file or directory")
    place = given or checkpoint
    path = place / CONFIG_NAME if place.is_dir() else place
    if given is None and not checkpoint.is_dir():
        raise InputError(f"{checkpoint}: a single file tells no configuration; give its config.json with --config")
    if not path.is_file():
        raise InputError(f"{path}: no such file; give the checkpoint's config.json with --config")
    return path


def collect(config_path: Path, config: Mapping[str, Any], dtype: DType | None) -> dict[str, bytes]:
    """Content by name of all that goes along; config.json tells the new element type if there is one."""
    files = sorted(file for file in config_path.parent.iterdir() if file.is_file() and is_checkpoint_asset(file.name))
    contents = {file.name: file.read_bytes() for file in files}
    changes = {key: _DTYPE_NAMES[dtype] for key in _DTYPE_KEYS if dtype and key in config}
    if any(config[key] != value for key, value in changes.items()):
        text = json.dumps({**config, **changes}, indent=2, ensure_ascii=False) + "\n"
        return {**contents, CONFIG_NAME: text.encode()}
    return {**contents, CONFIG_NAME: config_path.read_bytes()}
