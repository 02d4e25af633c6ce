"""Opening a checkpoint of any kind: a directory, or one .safetensors, .bin or .ckpt file. Only headers are read."""

from __future__ import annotations

import logging
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ms_impl.errors import InputError, itemised, listed, quote
from ms_impl.io import ms_ckpt, safetensors_files, torch_files
from ms_impl.io.json_files import check_file, read_json, unreadable
from ms_impl.io.rules import HUGGING_FACE, MINDSPORE
from ms_impl.io.tensors import CheckpointTensor

SINGLE_NAME = "model.safetensors"
INDEX_NAME = "model.safetensors.index.json"
CANDIDATES = (SINGLE_NAME, INDEX_NAME, "pytorch_model.bin", "pytorch_model.bin.index.json")
"""What transformers looks for in a directory, in its order: the first that is there is taken."""

FORMATS = {HUGGING_FACE: "pt", MINDSPORE: "ms"}
"""What stands under "format" in a safetensors file's metadata, by layout."""

_LONGEST_NAME = 255  # bytes of a file name

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint holds.

    Attributes:
        layout: whose names and layouts its tensors have; None where the files do not tell.
        skipped: tensors that belong to parts of the model which are not built here.
    """

    path: Path
    files: tuple[Path, ...]
    tensors: Mapping[str, CheckpointTensor]
    layout: str | None
    skipped: Mapping[str, CheckpointTensor] = field(default_factory=dict)


def open_checkpoint(path: str | Path) -> Checkpoint:
    """Open a directory of shards or a single file.

    Raises:
        InputError: nothing is there, a shard is absent or cut short, or the index and the shards disagree.
    """
    path = Path(path)
    try:
        is_directory = stat.S_ISDIR(path.stat().st_mode)
    except (OSError, ValueError) as error:
        raise unreadable(path, error) from error
    if is_directory:
        return _open_directory(path)
    tensors, layout = _open_file(path)
    return Checkpoint(path, (path,), tensors, layout)


def find_weights(directory: Path) -> tuple[Path, str]:
    """The weights or index of weights that a directory is read from, and, where there are others, which they are.

    Raises InputError where there is none.
    """
    there = [name for name in CANDIDATES if (directory / name).is_file()]
    if not there and (directory / "adapter_config.json").is_file():
        raise InputError(f"{directory}: holds an adapter; merge it into its base first (convert/merge_adapter.py)")
    if not there:
        raise InputError(f"{directory}: holds no weights; expected one of {', '.join(CANDIDATES)}")
    others = ", ".join(there[1:])
    return directory / there[0], f"{directory}: read from {there[0]}; not read: {others}" if others else ""


def _open_file(path: Path) -> tuple[Mapping[str, CheckpointTensor], str | None]:
    check_file(path)
    if path.suffix == ".ckpt":
        return ms_ckpt.read(path), MINDSPORE
    if path.suffix == ".bin":
        return torch_files.read(path), HUGGING_FACE
    if path.suffix == ".safetensors":
        tensors, metadata = safetensors_files.read(path)
        known = {written: layout for layout, written in FORMATS.items()}
        return tensors, known.get(metadata.get("format") or "")
    raise InputError(f"{path}: unknown ending {quote(path.suffix)}; give a directory, .safetensors, .bin or .ckpt")


def _open_directory(directory: Path) -> Checkpoint:
    main, choice = find_weights(directory)
    if choice:
        logger.warning("%s", choice)
    if main.suffix != ".json":
        tensors, layout = _open_file(main)
        return Checkpoint(directory, (main,), tensors, layout)
    return _open_shards(main)


def _open_shards(index: Path) -> Checkpoint:
    placed = read_index(index)
    files = shards(index, placed)
    tensors: dict[str, CheckpointTensor] = {}
    layouts: set[str] = set()
    by_file: dict[str, set[str]] = {}
    for name, file_name in placed.items():
        by_file.setdefault(file_name, set()).add(name)
    for file in files:
        held, layout = _open_file(file)
        _check_shard(index, file, held, by_file[file.name], placed)
        tensors.update(held)
        layouts |= {layout} if layout else set()  # a shard need not tell
    if len(layouts) > 1:
        raise InputError(f"{index}: its shards are of different kinds: {', '.join(sorted(layouts))}")
    return Checkpoint(index.parent, files, tensors, layouts.pop() if layouts else None)


def read_index(index: Path) -> dict[str, str]:
    """File name of each tensor, as an index of shards has it.

    Raises InputError where it cannot be read, is none, or names what is not a weight file beside it.
    """
    placed = read_json(index).get("weight_map")
    if not isinstance(placed, dict) or not placed:
        raise InputError(f"{index}: has no 'weight_map'; it is not an index of shards")
    ending = Path(index.name.removesuffix(".index.json")).suffix
    for tensor, file in placed.items():
        if not isinstance(file, str) or file != Path(file).name or not file.isprintable():
            raise InputError(f"{index}: places tensor {quote(tensor)} in {quote(file)}, which is not a file name")
        if not file.endswith(ending) or file == ending or len(file.encode()) > _LONGEST_NAME:
            raise InputError(f"{index}: places tensor {quote(tensor)} in {quote(file)}, which is not a {ending} file")
    return placed


def shards(index: Path, placed: Mapping[str, str]) -> tuple[Path, ...]:
    """The files that an index places tensors in. Raises InputError where one is absent."""
    files = tuple(index.parent / name for name in sorted(set(placed.values())))
    if absent := [file.name for file in files if not file.is_file()]:
        raise InputError(f"{index}: names shards that are not found: {listed(absent)}; download them again")
    return files


def _check_shard(
    index: Path, file: Path, held: Mapping[str, CheckpointTensor], promised: set[str], placed: Mapping[str, str]
) -> None:
    """A shard must hold exactly the tensors that the index places there; so none can stand in two."""
    lacking = [f"{file.name} lacks {quote(name)}" for name in sorted(promised - held.keys())]
    also = [
        f"{file.name} also holds {quote(name)}" + (f", which belongs in {placed[name]}" if name in placed else "")
        for name in sorted(held.keys() - promised)
    ]
    if lacking or also:
        raise InputError(f"{index}: does not agree with its shards:{itemised(lacking, also)}")
