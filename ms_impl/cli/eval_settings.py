"""The YAML's ``eval_dataset``: data sets by name, each with its metric. No framework is imported here."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ms_impl.cli.annotations import locate_records
from ms_impl.cli.kinds import suggest
from ms_impl.cli.schema import Settings, lookup
from ms_impl.errors import InputError, listed, quote
from ms_impl.evaluate.data_set import DataSet
from ms_impl.evaluate.metrics import METRICS
from ms_impl.generate.config import GenerationConfig

_LOADER = "BaseMultiModalDataLoader"
_OWN = ("metric", "data_loader", "batch_size", "max_new_tokens", "generation_config")  # others: template's options
_LONGEST_NAME = 200  # bytes; file systems take 255, endings included


def data_sets(sections: Mapping[str, Settings]) -> list[DataSet]:
    """The data sets of ``eval_dataset``, in order. Raises InputError naming the key that is wrong or missing."""
    if not sections:
        raise InputError("eval_dataset: names no data set")
    names = [_file_name(name) for name in sections]
    if repeated := {name for name in names if names.count(name) > 1}:
        raise InputError(f"eval_dataset: two data sets are named {listed(sorted(repeated))}")
    return [_data_set(name, section) for name, section in zip(names, sections.values())]


def _file_name(name: object) -> str:
    """A data set's name, after which its files are called. Raises InputError if none can be."""
    text = str(name)
    if (
        not (text.isprintable() and text.strip() and len(text.encode()) <= _LONGEST_NAME)
        or "/" in text
        or text[0] == "."
    ):
        raise InputError(
            f"eval_dataset: {quote(text)} cannot be the name of a file; take letters, digits, - and _, at most "
            f"{_LONGEST_NAME} bytes"
        )
    return text


def _data_set(name: str, section: Settings) -> DataSet:
    where = f"eval_dataset.{name}"
    for key in ("metric", "batch_size", "data_loader.annotation_file"):
        if lookup(section, key) is None:
            raise InputError(f"{where}.{key}: is missing")
    metric, loader = section["metric"], section["data_loader"]
    if metric not in METRICS:
        raise InputError(f"{where}.metric: unknown metric {metric!r}{suggest(metric, METRICS)}")
    if loader.get("type") != _LOADER:
        raise InputError(f"{where}.data_loader.type: {loader.get('type')!r} is not supported; it is {_LOADER}")
    for key in ("batch_size", "max_new_tokens"):
        if section.get(key, 1) < 1:
            raise InputError(f"{where}.{key}: must be positive, not {section[key]}")
    generation = section.get("generation_config") or {}
    try:
        GenerationConfig().changed(**generation)
    except InputError as error:
        raise InputError(f"{where}.generation_config: {error}") from error
    return DataSet(
        name=name,
        annotation_file=Path(locate_records(loader["annotation_file"])),
        metric=metric,
        batch_size=section["batch_size"],
        max_new_tokens=section.get("max_new_tokens"),
        num_samples=loader.get("num_samples"),
        options={
            "dataset_dir": "",
            **{key: value for key, value in section.items() if key not in _OWN and value is not None},
        },
        generation=generation,
    )
