"""Writing a checkpoint: one .ckpt or .safetensors file, or a directory of safetensors shards."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from ms_impl.errors import InputError, quote
from ms_impl.io import ms_ckpt, safetensors_files
from ms_impl.io.atomic_write import atomic_write
from ms_impl.io.checkpoint import CANDIDATES, FORMATS, INDEX_NAME, SINGLE_NAME, Checkpoint
from ms_impl.io.checkpoint_assets import CONFIG_NAME, is_checkpoint_asset
from ms_impl.io.rules import HUGGING_FACE
from ms_impl.io.tensors import CheckpointTensor

SHARD_BYTES = 2 * 10**9

_SHARD_NAME = "model-{:05d}-of-{:05d}.safetensors"
_OUR_NAMES = ("model.safetensors", "model-*-of-*.safetensors", INDEX_NAME)


class Kind(Enum):
    """What to write."""

    CKPT = ".ckpt"
    SAFETENSORS = ".safetensors"
    DIRECTORY = ""


@dataclass(frozen=True)
class Output:
    """Where to write what, in which layout."""

    path: Path
    kind: Kind
    layout: str

    @classmethod
    def parse(cls, text: str, layout: str) -> "Output":
        """From a command line: the ending decides; a path that ends in '/' or has no ending is a directory."""
        try:
            path = Path(text).resolve()  # where a link leads, so that the link itself is left alone
        except (OSError, RuntimeError, ValueError) as error:  # RuntimeError: links in a circle; ValueError: a NUL
            raise InputError(f"{quote(text)}: cannot be written to ({error})") from error
        if text.endswith("/") or path.is_dir() or not path.suffix:
            return cls(path, Kind.DIRECTORY, layout)
        if path.suffix not in (kind.value for kind in Kind):
            raise InputError(f"{text}: unknown ending '{path.suffix}'; use .ckpt, .safetensors, or a directory DIR/")
        kind = Kind(path.suffix)
        if kind is Kind.CKPT and layout == HUGGING_FACE:
            raise InputError(f"{text}: Hugging Face knows no .ckpt; use .safetensors, or a directory DIR/")
        return cls(path, kind, layout)

    def check(self, needed: int, assets: Iterable[str], *sources: Checkpoint) -> None:
        """Refuse to overwrite a source or anything foreign, or to begin with fewer than ``needed`` bytes free.

        ``assets`` are the names of files that will be written beside the weights.
        """
        path = self.path
        if not path.parent.is_dir():
            raise InputError(f"{path.parent}: no such directory; make it first")
        for source in sources:
            _refuse_input(path, source)
        if self.kind is Kind.DIRECTORY:
            _check_replaceable(path, set(assets))
        free = shutil.disk_usage(path.parent).free
        if free < needed:
            raise InputError(f"{path.parent}: {needed / 1e9:,.2f} GB are needed and {free / 1e9:,.2f} GB free")

    def write(
        self, tensors: Iterable[CheckpointTensor], assets: Mapping[str, bytes], progress: Callable[[int], Any]
    ) -> None:
        """Write all; the output takes its name only when complete. ``assets`` go into a directory only."""
        try:
            with atomic_write(self.path) as partial:
                self._write_at(partial, tensors, assets, progress)
        except OSError as error:
            raise InputError(f"{error.filename or self.path}: {error.strerror}; nothing was written") from error

    def _write_at(
        self,
        path: Path,
        tensors: Iterable[CheckpointTensor],
        assets: Mapping[str, bytes],
        progress: Callable[[int], Any],
    ) -> None:
        if self.kind is Kind.DIRECTORY:
            _write_directory(path, tensors, self.layout, assets, progress)
        elif self.kind is Kind.SAFETENSORS:
            _write_safetensors(path, safetensors_files.canonical_order(tensors), self.layout, progress)
        else:
            with open(path, "wb") as file:
                ms_ckpt.write(file, tensors, progress)


def _refuse_input(path: Path, source: Checkpoint) -> None:
    """Raise InputError where writing at ``path``, which is no link, would replace the input or part of it.

    What is read may lie behind links, as in a Hugging Face hub cache: the place of every link on the way counts.
    """
    places = {place for file in (source.path, *source.files) for place in _on_the_way(file)}
    if path in places or any(path in place.parents for place in places):
        raise InputError(f"{path}: is the input; give another --output_path")
    if path.name in CANDIDATES and source.path.is_dir() and path.parent == source.path.resolve():
        raise InputError(f"{path}: would be read in place of the input's weights; give another --output_path")


def _on_the_way(path: Path) -> Iterator[Path]:
    """Where a path is before and after following each link, its directory's links being followed."""
    while True:
        path = path.parent.resolve() / path.name if path.name not in ("", "..") else path.resolve()
        yield path
        if not path.is_symlink():
            return
        path = path.parent / path.readlink()


def _check_replaceable(directory: Path, assets: set[str]) -> None:
    """A directory that stands there already must be empty or hold nothing but a converted checkpoint."""
    if not directory.exists():
        return
    if not directory.is_dir():
        raise InputError(f"{directory}: is a file; name a directory")
    names = [entry.name for entry in directory.iterdir()]
    known = {name for name in names if name in assets or is_checkpoint_asset(name) or _is_ours(name)}
    foreign = set(names) - known
    if names and (foreign or CONFIG_NAME not in names or not any(map(_is_ours, names))):
        what = f"it holds {', '.join(sorted(foreign)[:5])}" if foreign else "it holds no weights"
        raise InputError(f"{directory}: exists and is not a converted checkpoint ({what}); name a new directory")


def _is_ours(name: str) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in _OUR_NAMES)


def _write_safetensors(
    path: Path, tensors: Sequence[CheckpointTensor], layout: str, progress: Callable[[int], Any]
) -> None:
    with open(path, "wb") as file:
        safetensors_files.write(file, tensors, {"format": FORMATS[layout]}, progress)


def _write_directory(
    path: Path,
    tensors: Iterable[CheckpointTensor],
    layout: str,
    assets: Mapping[str, bytes],
    progress: Callable[[int], Any],
) -> None:
    path.mkdir()
    for name, content in assets.items():
        (path / name).write_bytes(content)
    shards = _shards(safetensors_files.canonical_order(tensors))
    if len(shards) == 1:
        return _write_safetensors(path / SINGLE_NAME, shards[0], layout, progress)
    placed = {}
    for number, shard in enumerate(shards, start=1):
        name = _SHARD_NAME.format(number, len(shards))
        _write_safetensors(path / name, shard, layout, progress)
        placed.update({tensor.name: name for tensor in shard})
    total = sum(tensor.nbytes for shard in shards for tensor in shard)
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(placed.items()))}
    (path / INDEX_NAME).write_text(json.dumps(index, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _shards(tensors: Sequence[CheckpointTensor]) -> list[list[CheckpointTensor]]:
    """Consecutive tensors of at most ``SHARD_BYTES`` together; a tensor above that stands alone."""
    shards: list[list[CheckpointTensor]] = [[]]
    size = 0
    for tensor in tensors:
        if shards[-1] and size + tensor.nbytes > SHARD_BYTES:
            shards.append([])
            size = 0
        shards[-1].append(tensor)
        size += tensor.nbytes
    return shards
