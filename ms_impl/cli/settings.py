"""A run's settings: a MindFormers YAML, and what follows from the command line, the checkpoint and the device."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from ms_impl.cli.schema import Settings, lookup
from ms_impl.errors import InputError
from ms_impl.families import Family
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
_DTYPE_KEYS = ("model.model_config.compute_dtype", "model.model_config.param_init_type")


def read_yaml(path: Path) -> Settings:
    """A YAML file whose content is a table."""
    try:
        settings = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not YAML ({' '.join(str(error).split())})") from error
    if not isinstance(settings, dict):
        raise InputError(f"{path}: expected a table of settings")
    if "base_config" in settings:
        raise InputError(f"{path}: base_config is not read; write its keys into this file")
    return settings


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
    """Fill in what stands beside the checkpoint: the model's config.json and the vocabulary file."""
    if given := settings.get("load_checkpoint"):
        needed = settings.get("run_mode") != "check"
        settings["load_checkpoint"] = str(_existing("load_checkpoint", given) if needed else locate(given))
    checkpoint = Path(settings.get("load_checkpoint") or "")
    folder = checkpoint if checkpoint.is_dir() else checkpoint.parent
    given = lookup(settings, "model.model_config.config_file")
    config_file = _existing("model.model_config.config_file", given or folder / "config.json")
    override(settings, [("model.model_config.config_file", str(config_file))])
    for section in ("train_dataset", "processor"):
        if settings.get(section):
            vocabulary = _vocabulary(lookup(settings, f"{section}.tokenizer.vocab_file"), folder)
            override(settings, [(f"{section}.tokenizer.vocab_file", str(vocabulary))])


def check_weights(settings: Settings, family: Family) -> None:
    """Raise InputError, listing every fault, unless load_checkpoint holds the model's weights. Only headers are read.

    Not looked into: what is to be resumed, and weights that are cut for the ranks of a cluster.
    """
    path = settings.get("load_checkpoint")
    if path and not settings.get("resume_training") and not list(Path(path).glob("rank_*")):
        config_file = lookup(settings, "model.model_config.config_file")
        load_for_mindspore(path, family, family.resolve("config").from_file(config_file))


def adapt_to_cpu(settings: Settings) -> list[str]:
    """Replace what runs only on Ascend by what runs on CPU. Returns a line for each key that changes."""
    changes = {key: value for key, value in _ON_CPU.items() if lookup(settings, key) != value}
    changes |= {key: "float32" for key in _DTYPE_KEYS if lookup(settings, key) in ("bfloat16", "bf16")}
    lines = [f"on CPU: {key}: {lookup(settings, key)} → {value}" for key, value in changes.items()]
    override(settings, changes.items())
    for key in _NOT_ON_CPU:
        if lookup(settings, key) is not None:
            section, _, last = key.rpartition(".")
            lines.append(f"on CPU: {key}: {lookup(settings, section).pop(last)} is left out")
    return lines


def _existing(key: str, path: str | Path) -> Path:
    if not (located := locate(path)).exists():
        raise InputError(f"{key}: there is no {path}")
    return located


def _vocabulary(given: str | None, folder: Path) -> Path:
    if given:
        return locate(given)
    found = sorted(folder.glob("*.tiktoken"))
    if len(found) != 1:
        raise InputError(f"tokenizer.vocab_file is not given, and {folder} holds {len(found)} *.tiktoken files")
    return found[0]
