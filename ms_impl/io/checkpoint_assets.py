"""What goes along with the weights: the one list of the files that belong to a model, and the chat format among them.

Training, conversion in both directions and merging write what ``collect`` finds; ``find_generation_config`` says where
loading, evaluation and prediction read theirs.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from ms_impl.errors import InputError
from ms_impl.io.dtypes import BF16, FP16, FP32, DType
from ms_impl.io.json_files import parse_json, read_bytes, read_json

CONFIG_NAME = "config.json"
GENERATION_NAME = "generation_config.json"
CHAT_FORMAT = "chat_format"  # the key of generation_config.json

# By name, for a directory may hold data and scripts' results as well.
_OF_A_MODEL = (
    "config.json", "*_config.json", "configuration*.json", "*token*.json", "vocab*.json", "*template*.json",
    "merges.txt", "vocab*.txt", "*.tiktoken", "*.model", "*.jinja", "*.py",
    "LICENSE*", "NOTICE*", "USE_POLICY*",
)  # fmt: skip
# What the patterns above would take but an adapter or a training run has written.
_OF_A_RUN = ("adapter_config.json", "ds_config.json", "deepspeed*.json", "accelerate*.json", "*.index.json")
_VOCABULARY = "*.tiktoken"
_LARGEST = 64 << 20  # bytes; a vocabulary has some 10 MB

_DTYPE_KEYS = ("torch_dtype", "dtype")  # the second since transformers 4.56
_DTYPE_NAMES = {FP32: "float32", FP16: "float16", BF16: "bfloat16"}


def is_checkpoint_asset(name: str) -> bool:
    """Whether a file of that name belongs to a model and goes along with its weights."""
    return _matches(name, _OF_A_MODEL) and not _matches(name, _OF_A_RUN)


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


def find_generation_config(checkpoint: Path, config_path: Path) -> Path | None:
    """The generation_config.json of a checkpoint: beside its weights or, failing that, beside its config.json."""
    beside = checkpoint if checkpoint.is_dir() else checkpoint.parent
    found = (place / GENERATION_NAME for place in (beside, config_path.parent))
    return next((path for path in found if os.path.lexists(path)), None)  # a broken link is a mistake, not an absence


def chat_format_of(directory: Path) -> str | None:
    """The chat format that a directory's generation_config.json names, if it names one."""
    path = directory / GENERATION_NAME
    named = read_json(path).get(CHAT_FORMAT) if path.exists() else None
    if not isinstance(named, str | None):
        raise InputError(f"{path}: {CHAT_FORMAT} must be a word")
    return named


def collect(
    checkpoint: Path | None,
    config_path: Path,
    dtype: DType | None = None,
    chat_format: str | None = None,
    vocabulary: Path | None = None,
    saved_files: Sequence[str] = (),
) -> dict[str, bytes]:
    """Content by name of all that goes along with the weights of ``checkpoint``.

    It stands in the checkpoint's directory and in that of config.json; where both have a file, the first counts.

    Args:
        dtype: the new element type, for config.json to tell.
        chat_format: the one that was trained, for generation_config.json to tell.
        vocabulary: the one that was used, if it may lie elsewhere.
        saved_files: patterns of further files, of the model's family.
    """
    files = _files_in(config_path.parent, saved_files)
    if checkpoint and checkpoint.is_dir():
        files = _replaced(files, _files_in(checkpoint, saved_files))
    if vocabulary:
        files = _replaced(files, {vocabulary.name: vocabulary})
    if generation := find_generation_config(checkpoint or config_path, config_path):
        files[GENERATION_NAME] = generation
    contents = {name: read_bytes(file, _LARGEST) for name, file in sorted({**files, CONFIG_NAME: config_path}.items())}
    contents[CONFIG_NAME] = _with_dtype(contents[CONFIG_NAME], dtype, str(config_path))
    if chat_format:
        contents[GENERATION_NAME] = with_chat_format(contents.get(GENERATION_NAME), chat_format, str(generation))
    return contents


def with_chat_format(content: bytes | None, chat_format: str, source: str = GENERATION_NAME) -> bytes:
    """A generation_config.json, or a new one, that names a chat format."""
    table = parse_json(content, source) if content else {}
    if table.get(CHAT_FORMAT) == chat_format and content:
        return content
    return _as_bytes({**table, CHAT_FORMAT: chat_format})


def _with_dtype(content: bytes, dtype: DType | None, source: str) -> bytes:
    config = parse_json(content, source)
    changes = {key: _DTYPE_NAMES[dtype] for key in _DTYPE_KEYS if dtype and key in config}
    if all(config[key] == value for key, value in changes.items()):
        return content
    return _as_bytes({**config, **changes})


def _files_in(directory: Path, saved_files: Sequence[str]) -> dict[str, Path]:
    return {
        file.name: file
        for file in directory.iterdir()
        if file.is_file() and (is_checkpoint_asset(file.name) or _matches(file.name, saved_files))
    }


def _replaced(files: dict[str, Path], nearer: dict[str, Path]) -> dict[str, Path]:
    """``files`` and those that count before them. A model has one vocabulary, whatever its name."""
    if any(fnmatchcase(name, _VOCABULARY) for name in nearer):
        files = {name: file for name, file in files.items() if not fnmatchcase(name, _VOCABULARY)}
    return {**files, **nearer}


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _as_bytes(table: dict) -> bytes:
    return (json.dumps(table, indent=2, ensure_ascii=False) + "\n").encode()
