"""sft, infer and export: what scripts/swift.py starts."""

from __future__ import annotations

import os
import runpy
import shlex
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from ms_impl import families
from ms_impl.cli.swift import runs
from ms_impl.cli.swift.arguments import Given, read
from ms_impl.cli.swift.datasets import prepared
from ms_impl.cli.swift.training import Settings, notes_of, settings_of
from ms_impl.errors import InputError, quote
from ms_impl.families import Family
from ms_impl.io.atomic_write import atomic_write
from ms_impl.io.checkpoint_assets import find_config
from ms_impl.io.json_files import read_json
from ms_impl.register import load_custom, use_template
from ms_impl.resources import resource

_DEVICES = "ASCEND_RT_VISIBLE_DEVICES"  # CANN reads it
_RESTORED = ("model", "model_type", "template", "custom_register_path", "system", "torch_dtype")


def sft(words: Sequence[str]) -> int:
    """Train. Returns run_mindformer.py's exit status."""
    given = read("sft", words)
    for note in given.notes:
        print(note)
    if given.resume_from_checkpoint:
        return _resume(given)
    family, config = _model(given.values)
    given = _absolute(given)
    ranks, device = ranks_of(os.environ), given.device_target or _device()
    port_of(os.environ)  # a wrong one is told before anything is written
    run = runs.new_run(Path(given.output_dir), given.add_version)
    try:
        split = prepared(
            given.dataset, given.val_dataset, given.split_dataset_ratio, given.data_seed, run, given.dataset_shuffle
        )
        settings = settings_of(given, family, config, split, str(run), ranks, device)
    except InputError:
        with suppress(OSError):  # where nothing has been written
            run.rmdir()
        raise
    print(*notes_of(given, ranks), sep="\n")
    _write_settings(settings, run)
    runs.save_arguments({**given.values, "val_dataset": [split.validation] if split.validation else []}, run)
    return _train(run, given.values, ranks)


def export(words: Sequence[str]) -> int:
    """Merge an adapter into its base: a directory that Hugging Face loads."""
    given = read("export", words)
    for note in given.notes:
        print(note)
    if not given.merge_lora:
        raise InputError("export: give --merge_lora true; an adapter and a whole model are on disk as they were saved")
    adapter, values = _adapter(given)
    if adapter is None:
        raise InputError("--adapters: names no checkpoint to merge")
    family, _ = _model(values)
    target = given.output_dir or f"{str(given.adapters[0]).rstrip('/')}-merged"
    if Path(target).exists():
        raise InputError(f"--output_dir: {target} already exists; give another, or remove it")
    from convert.merge_adapter import main as merge

    paths = [f"--custom_register_path={path}" for path in values["custom_register_path"] or ()]
    status = merge(["--model", family.name, "--input_path", str(values["model"]), "--adapter", str(adapter),
                    "--output_path", f"{target}/", *paths])  # fmt: skip
    if status == 0:
        runs.save_arguments(values, Path(target))
    return status


def infer(words: Sequence[str]) -> int:
    """Answer a validation set and write a line a record; without one, a conversation in the terminal."""
    given = read("infer", words)
    for note in given.notes:
        print(note)
    adapter, values = _adapter(given)
    _model(values)
    files = list(given.val_dataset) or (list(values.get("val_dataset") or ()) if given.load_data_args else [])
    if not files and given.load_data_args:
        raise InputError("--load_data_args: the run set no record aside; train with --split_dataset_ratio 0.01")
    if not files:
        return _chat(given, values, adapter)
    from ms_impl.cli.swift.answers import answer_files

    beside = adapter or runs.checkpoint_directory(values["model"])
    target = given.result_path or beside / "infer_result" / f"{time.strftime('%Y%m%d-%H%M%S')}.jsonl"
    answer_files(given, values, adapter, files, Path(target))
    return 0


def _absolute(given: Given) -> Given:
    """The same with whole paths, which mean the same wherever the run is resumed or its adapter used."""
    values = {name: os.path.abspath(given.values[name]) for name in ("model", "output_dir")}
    for name in ("custom_register_path", "adapters"):
        values[name] = tuple(map(os.path.abspath, given.values[name]))
    return replace(given, values={**given.values, **values})


def ranks_of(environment: Any) -> int:
    """NPROC_PER_NODE. Raises InputError for what is no number of processes, for several nodes, and too few devices."""
    text = environment.get("NPROC_PER_NODE", "1")
    if not text.isdecimal() or not 1 <= int(text) <= 1024:
        raise InputError(f"environment variable NPROC_PER_NODE must be a whole number from 1, not {quote(text)}")
    if environment.get("NNODES", "1") != "1":
        raise InputError("environment variable NNODES: for several nodes use scripts/msrun_launcher.sh on each")
    devices = environment.get(_DEVICES)
    if devices is not None and len(devices.split(",")) < int(text):
        raise InputError(f"environment variable {_DEVICES} is {quote(devices)}, for {text} processes (NPROC_PER_NODE)")
    return int(text)


def port_of(environment: Any) -> int | None:
    """MASTER_PORT, where the workers meet; None: any that is free. Raises InputError for what is no port."""
    text = environment.get("MASTER_PORT")
    if text is not None and not (text.isdecimal() and 1 <= int(text) <= 65535):
        raise InputError(f"environment variable MASTER_PORT must be a port from 1 to 65535, not {quote(text)}")
    return text and int(text)


def _model(values: Any) -> tuple[Family, Any]:
    """The family and the configuration of ``--model``, after the files that register families have been run."""
    for path in values["custom_register_path"] or ():
        load_custom(path)
    if not values["model"]:
        raise InputError("--model: give the directory of a checkpoint")
    if not Path(values["model"]).is_dir():
        raise InputError(f"--model: {values['model']} is not a directory; nothing is fetched from a hub: download it")
    config_file = find_config(Path(values["model"]), None)
    family = families.for_config(read_json(config_file), str(config_file), values["model_type"])
    if values["template"]:
        family = use_template(family, values["template"])
    return family, family.resolve("config").from_file(config_file)


def _adapter(given: Given) -> tuple[Path | None, dict[str, Any]]:
    """The adapter's directory, and the arguments with what its args.json says of those that are not given."""
    values = dict(given.values)
    if len(given.adapters) > 1:
        raise InputError("--adapters: one adapter at a time; merge the first with export --merge_lora true")
    adapter = runs.checkpoint_directory(given.adapters[0]) if given.adapters else None
    saved = runs.arguments_of(adapter or given.model or "")
    for name in (*_RESTORED, "val_dataset"):
        if name not in given.named and saved.get(name) is not None and (name != "model" or adapter):
            values[name] = saved[name]
    return adapter, values


def _write_settings(settings: Settings, run: Path) -> None:
    """Print the YAML, and keep it with the run."""
    text = yaml.safe_dump(settings, sort_keys=False, allow_unicode=True)
    print(f"the same as run_mindformer.py --config {run / runs.SETTINGS}, which is:\n{text}", flush=True)
    with atomic_write(run / runs.SETTINGS) as aside:
        aside.write_text(text, encoding="utf-8")


def _train(run: Path, values: Any, ranks: int, resume: str | None = None) -> int:
    words = ["--config", str(run / runs.SETTINGS), *_families(values)]
    words += ["--resume_training", resume] if resume else []
    try:
        if ranks > 1:
            from ms_impl.launch.supervisor import Nodes, Patience, Supervisor

            task = shlex.join([str(resource("run_mindformer.py")), *words])
            nodes = Nodes(workers=ranks, master_port=port_of(os.environ))
            return Supervisor(task, run, bool(resume), nodes, Patience(max_restarts=0)).run()
        sys.argv = [str(resource("run_mindformer.py")), *words]
        return runpy.run_path(sys.argv[0])["main"]()
    finally:
        for link in runs.name_checkpoints(run):
            print(f"checkpoint: {link}")


def _resume(given: Given) -> int:
    """Resume a run of sft from one of its checkpoints; other arguments are those that it began with."""
    folder = runs.checkpoint_directory(given.resume_from_checkpoint).resolve()
    if others := sorted(given.named - {"resume_from_checkpoint", "output_dir", "model"}):
        raise InputError(f"--resume_from_checkpoint: the run goes on as it began; leave out --{', --'.join(others)}")
    run = folder.parent.parent
    values = runs.arguments_of(run)
    if not values or not (run / runs.SETTINGS).is_file():
        raise InputError(f"--resume_from_checkpoint: {run} is not a run of sft; it has no {runs.SETTINGS}")
    return _train(run, values, ranks_of(os.environ), folder.name)


def _families(values: Any) -> list[str]:
    """The arguments that choose the family, as every command takes them."""
    words = ["--custom_register_path", *values["custom_register_path"]] if values.get("custom_register_path") else []
    for name in ("model_type", "template"):
        words += [f"--{name}", values[name]] if values.get(name) else []
    return words


def _chat(given: Given, values: Any, adapter: Path | None) -> int:
    words = ["--model", str(values["model"]), *_families(values)]
    words += ["--adapter", str(adapter)] if adapter else []
    words += ["--system", values["system"]] if values.get("system") else []
    for name in ("max_new_tokens", "temperature", "top_p"):
        words += [f"--{name}", str(getattr(given, name))] if name in given.named else []
    sys.argv = [str(resource("scripts/chat.py")), *words]
    return runpy.run_path(sys.argv[0])["main"]()


def _device() -> str:
    from ms_impl.cells.device import is_available  # the slow import

    return "Ascend" if is_available("Ascend") else "CPU"
