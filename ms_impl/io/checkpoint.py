"""Opening a checkpoint of any kind: a directory, or one .safetensors, .bin or .ckpt file. Only headers are read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ms_impl.errors import InputError
from ms_impl.io import ms_ckpt, safetensors_files, torch_files
from ms_impl.io.json_files import read_json
from ms_impl.io.rules import Layout
from ms_impl.io.tensors import Tensor

INDEX_NAME = "model.safetensors.index.json"
SINGLE_NAME = "model.safetensors"

_IN_DIRECTORY = (INDEX_NAME, SINGLE_NAME, "pytorch_model.bin.index.json", "pytorch_model.bin")  # the first is taken


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint holds. ``layout`` is None where the files do not tell."""

    path: Path
    files: tuple[Path, ...]
    tensors: Mapping[str, Tensor]
    layout: Layout | None


def open_checkpoint(path: str | Path) -> Checkpoint:
    """Open a directory of shards or a single file.

    Raises:
        InputError: nothing is there, a shard is absent or cut short, or the index and the shards disagree.
    """
    path = Path(path)
    if path.is_dir():
        return _open_directory(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file or directory")
    tensors, layout = _open_file(path)
    return Checkpoint(path, (path,), tensors, layout)


def _open_file(path: Path) -> tuple[Mapping[str, Tensor], Layout | None]:
    if path.suffix == ".ckpt":
        return ms_ckpt.read(path), Layout.MINDSPORE
    if path.suffix == ".bin":
        return torch_files.read(path), Layout.HUGGING_FACE
    if path.suffix == ".safetensors":
        tensors, metadata = safetensors_files.read(path)
        known = {layout.value: layout for layout in Layout}
        return tensors, known.get(metadata.get("format") or "")
    raise InputError(f"{path}: unknown ending '{path.suffix}'; give a directory, .safetensors, .bin or .ckpt")


def _open_directory(directory: Path) -> Checkpoint:
    main = next((directory / name for name in _IN_DIRECTORY if (directory / name).is_file()), None)
    if main is None:
        raise InputError(f"{directory}: holds no weights; expected one of {', '.join(_IN_DIRECTORY)}")
    if main.suffix != ".json":
        tensors, layout = _open_file(main)
        return Checkpoint(directory, (main,), tensors, layout)
    return _open_shards(main)


def _open_shards(index: Path) -> Checkpoint:
    placed = _read_index(index)
    files = tuple(index.parent / name for name in sorted(set(placed.values())))
    if absent := [file.name for file in files if not file.is_file()]:
        raise InputError(f"{index}: names shards that are not there: {', '.join(absent)}; download them again")
    tensors: dict[str, Tensor] = {}
    layouts = set()
    for file in files:
        held, layout = _open_file(file)
        _check_shard(index, file, held, placed)
        tensors.update(held)
        layouts.add(layout)
    if len(layouts) > 1:
        raise InputError(f"{index}: its shards are of different kinds: {', '.join(sorted(map(str, layouts)))}")
    return Checkpoint(index.parent, files, tensors, layouts.pop())


def _read_index(index: Path) -> dict[str, str]:
    """File name of each tensor."""
    placed = read_json(index).get("weight_map")
    if not isinstance(placed, dict) or not placed:
        raise InputError(f"{index}: has no 'weight_map'; it is no index of shards")
    for tensor, file in placed.items():
        if not isinstance(file, str) or file != Path(file).name:
            raise InputError(f"{index}: places tensor '{tensor}' in {file!r}, which is not a file name")
    return placed


def _check_shard(index: Path, file: Path, held: Mapping[str, Tensor], placed: Mapping[str, str]) -> None:
    """A shard must hold exactly the tensors that the index places there; so none can stand in two."""
    promised = {name for name, shard in placed.items() if shard == file.name}
    faults = [f"{file.name} lacks '{name}'" for name in sorted(promised - held.keys())]
    faults += [
        f"{file.name} also holds '{name}'" + (f", which belongs in {placed[name]}" if name in placed else "")
        for name in sorted(held.keys() - promised)
    ]
    if faults:
        raise InputError(f"{index}: does not agree with its shards:\n  " + "\n  ".join(faults))
