"""A run's settings: a MindFormers YAML, and what follows from the command line, the checkpoint and the device."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from ms_impl.cli.annotations import locate_records
from ms_impl.cli.keys import DTYPES
from ms_impl.cli.schema import Settings, family_of, lookup
from ms_impl.errors import InputError, listed
from ms_impl.families import Family
from ms_impl.io.checkpoint import find_weights
from ms_impl.io.conversion import load_for_mindspore
from ms_impl.resources import locate

REGISTER_PATH = Path(__file__).resolve().parents[1] / "plugin" / "register"

# What a run on CPU must have in place of what Ascend has. (Measured with MindSpore 2.9.0 and MindFormers 1.9.0.)
_ON_CPU = {
    "runner_config.sink_mode": False,  # sink_size would be counted as epochs
    "parallel.parallel_mode": 0,  # data parallel; semi-automatic: "Invalid backend: CPU"
    "parallel.full_batch": False,
    "auto_trans_ckpt": False,  # every rank holds whole parameters
}
_NOT_ON_CPU = ("parallel.parallel_optimizer_config", "context.ascend_config", "context.jit_config")
_CONFIG_KEY = "model.model_config.config_file"
_DTYPE_KEYS = ("model.model_config.compute_dtype", "model.model_config.param_init_type")
_ADAPTER = "model.model_config.lora.adapter"
_TEMPLATE = "train_dataset.modal_to_text_transform.model_transform_template"


def override(settings: Settings, changes: Iterable[tuple[str, Any]]) -> None:
    """Set dotted keys, making the sections they need."""
    for key, value in changes:
        *parents, last = key.split(".")
        section = settings
        for part in parents:
            if section.get(part) is None:
                section[part] = {}
            section = section[part]
            if not isinstance(section, dict):
                raise InputError(f"{key}: '{part}' is a value, not a section")
        section[last] = value


def complete(settings: Settings) -> None:
    """Fill in what stands beside the checkpoint, and find files that the settings name.

    The model's config.json and the vocabulary file stand beside it. All paths are looked for where the command runs
    and then among the project's own files. Element types get MindFormers' names.
    """
    for key in _DTYPE_KEYS:
        if name := lookup(settings, key):
            override(settings, [(key, DTYPES.get(name, name))])
    if given := settings.get("load_checkpoint"):
        settings["load_checkpoint"] = str(locate(given))
    checkpoint = Path(settings.get("load_checkpoint") or "")
    folder = checkpoint if os.path.isdir(checkpoint) else checkpoint.parent
    given = lookup(settings, _CONFIG_KEY)
    config_file = _existing(_CONFIG_KEY, given) if given else folder / "config.json"
    if not os.path.exists(config_file):
        if (folder / "adapter_config.json").is_file():
            find_weights(folder)
        raise InputError(
            f"{_CONFIG_KEY}: not set, and {listed([folder])} holds no config.json; set it to that of the model, "
            "or convert the weights into a directory (--output_path DIR/), which has it beside them"
        )
    override(settings, [(_CONFIG_KEY, str(config_file))])
    if adapter := lookup(settings, _ADAPTER):
        override(settings, [(_ADAPTER, str(locate(adapter)))])
    for section in ("train_dataset", "processor"):
        if settings.get(section):
            key = f"{section}.tokenizer.vocab_file"
            patterns = family_of(settings).vocabulary
            vocabulary = _vocabulary(key, lookup(settings, key), (folder, config_file.parent), patterns)
            override(settings, [(key, str(vocabulary))])
    override(settings, list(_data_paths(settings)))


def require_weights(settings: Settings) -> None:
    """Raise InputError unless load_checkpoint is there, where the run mode cannot do without."""
    path, run_mode = settings.get("load_checkpoint"), settings["run_mode"]
    if path:
        _existing("load_checkpoint", path)
    elif run_mode != "train":
        raise InputError(f"load_checkpoint: run_mode {run_mode} needs weights; only train begins with random ones")


def check_weights(settings: Settings, family: Family) -> None:
    """Raise InputError, listing every fault, unless load_checkpoint holds the model's weights. Only headers are read.

    Not looked into: what is to be resumed, and weights that are cut for the ranks of a cluster.
    """
    path = settings.get("load_checkpoint")
    if path and not settings.get("resume_training") and not list(Path(path).glob("rank_*")):
        config_file = lookup(settings, "model.model_config.config_file")
        load_for_mindspore(path, family, family.resolve("config").from_file(config_file))


def adapt_to_cpu(settings: Settings) -> list[str]:
    """Replace what runs only on Ascend by what runs on CPU. Returns a line for each that was given.

    Weights that only answer stay in bf16: they need no memory of their own where the file has them so.
    """
    changes: dict[str, Any] = {key: value for key, value in _ON_CPU.items() if lookup(settings, key) != value}
    dtypes = _DTYPE_KEYS[:1] if settings.get("run_mode") in ("predict", "eval") else _DTYPE_KEYS
    changes |= {key: "float32" for key in dtypes if lookup(settings, key) in ("bfloat16", "bf16")}
    given = {key: lookup(settings, key) for key in changes}
    lines = [f"on CPU: {key}: {given[key]} → {value}" for key, value in changes.items() if given[key] is not None]
    override(settings, changes.items())
    for key in _NOT_ON_CPU:
        if lookup(settings, key) is not None:
            section, _, last = key.rpartition(".")
            lines.append(f"on CPU: {key}: {lookup(settings, section).pop(last)} is left out")
    return lines


def _data_paths(settings: Settings) -> Iterator[tuple[str, Any]]:
    """Data files and directories of images, located."""
    names = [f"eval_dataset.{name}" for name in settings.get("eval_dataset") or {}]
    for loader in ("train_dataset.data_loader", *(f"{name}.data_loader" for name in names)):
        if files := lookup(settings, f"{loader}.annotation_file"):
            yield f"{loader}.annotation_file", _located(files)
    for key in (_TEMPLATE, *names):
        if folder := lookup(settings, f"{key}.dataset_dir"):
            yield f"{key}.dataset_dir", str(locate(folder))


def _located(files: Any) -> Any:
    """The same paths, located: one, or a list of paths and of tables with a path."""
    if isinstance(files, list):
        return [_located(file) for file in files]
    return {**files, "path": _located(files["path"])} if isinstance(files, dict) else locate_records(files)


def _existing(key: str, path: str | Path) -> Path:
    located = locate(path)
    if not os.path.exists(located):
        raise InputError(f"{key}: {listed([path])} not found")
    return located


def _vocabulary(key: str, given: str | None, folders: Iterable[Path], patterns: tuple[str, ...]) -> Path:
    """The vocabulary file that is given, or the one in the first of ``folders`` that has any.

    Of several patterns the first that a directory has files for counts.
    """
    if given:
        return _existing(key, given)
    folders = list(dict.fromkeys(folders))
    places = [(folder, pattern) for folder in folders if os.path.isdir(folder) for pattern in patterns]
    found = next(filter(None, (sorted(folder.glob(pattern)) for folder, pattern in places)), [])
    names = " or ".join(patterns)
    if len(found) > 1:
        raise InputError(f"{key}: not set, and {found[0].parent} holds {len(found)} {names} files; set it to one")
    if not found:
        raise InputError(
            f"{key}: not set, and no {names} file is in {listed(folders)}; set it to the model's "
            "vocabulary, or convert the weights into a directory (--output_path DIR/), which has it beside them"
        )
    return found[0]
