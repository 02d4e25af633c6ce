"""Running checked settings through MindFormers. Imports mindformers: some ten seconds, so it comes after all checks."""

from __future__ import annotations

import importlib
import logging
import os
import sys
from pathlib import Path

import mindspore
from mindspore.communication import init

from ms_impl.cells.device import is_available
from ms_impl.cli.mindformers_config import mindformers_config
from ms_impl.cli.schema import Settings, family_of, lookup
from ms_impl.cli.settings_report import report, save_report
from ms_impl.cli.training_plan import read_plan
from ms_impl.cli.yaml_reader import read_yaml
from ms_impl.errors import InputError
from ms_impl.launch.run_lock import lock_run
from ms_impl.plugin.graceful_stop import install as note_stop_signals
from ms_impl.plugin.patches import log_to_files, patch_for_cpu, silence_settings
from ms_impl.resources import locate
from ms_impl.train.ranks import any_rank, is_first_rank, parameters_are_whole

logger = logging.getLogger(__name__)


def run(settings: Settings) -> None:
    """Train, evaluate or predict. Raises InputError for what the user can put right."""
    device = lookup(settings, "context.device_target") or "Ascend"
    if not is_available(device):
        raise InputError(f"context.device_target: this machine has no {device}; for CPU give --device_target CPU")
    role = os.environ.get("MS_ROLE")
    if role == "MS_SCHED":
        return _schedule(device)
    if settings.get("use_parallel") and device == "CPU" and not role:
        raise InputError("use_parallel: this is one process; start the ranks with scripts/msrun_launcher.sh")
    plan = read_plan(settings)
    os.environ["REGISTER_PATH"] = settings["register_path"]
    warn_of_kept_graphs(settings)
    output = Path(settings.get("output_dir") or "output")
    log = log_to_files(os.environ.setdefault("LOG_MF_PATH", str(output / "log")))
    if not role or os.environ.get("RANK_ID") == "0":
        print(f"MindFormers' log: {log}", file=sys.stderr, flush=True)
    os.environ.setdefault("OM_MODULES_CACHE", str(output / "modules"))  # where MindFormers copies the register files
    if device == "CPU":
        patch_for_cpu()
    register_all()
    silence_settings()
    from mindformers import MindFormerConfig, Trainer, build_context
    from mindformers.tools.register.template import ConfigTemplate

    told = mindformers_config(settings, plan)
    try:
        ConfigTemplate.apply_template(told)
    except KeyError as error:
        raise InputError(error.args[0]) from error
    config = MindFormerConfig(**told)
    build_context(config)
    trainer = Trainer(config)
    trainer.trainer.plan = plan
    if config.run_mode == "predict":
        _lock(output, "predict")
        trainer.predict(predict_checkpoint=config.load_checkpoint, input_data=settings["input_data"])
    elif config.run_mode == "eval":
        _lock(output, "eval")
        trainer.evaluate(eval_dataset=list(plan.data_sets), eval_checkpoint=config.load_checkpoint)
    else:
        _lock(output, "train")
        if is_first_rank():
            shown = _report(settings)
            print(shown, flush=True)
            save_report(shown, output / "settings.yaml")
        note_stop_signals()
        trainer.train()


def _lock(output: Path, kind: str) -> None:
    """Keep other runs out of the output directory, or raise InputError on every rank that finds one there."""
    failure = None
    try:
        if is_first_rank():
            lock_run(output, kind)
    except InputError as error:
        failure = error
    if any_rank(failure is not None) if parameters_are_whole() else failure:
        raise failure or InputError(f"{output}: the first rank found another run there")


def warn_of_kept_graphs(settings: Settings) -> None:
    """MindSpore 2.9.0's compile cache went on with the old weight_decay after another was set."""
    if lookup(settings, "context.enable_compile_cache") or os.environ.get("MS_COMPILER_CACHE_ENABLE") == "1":
        logger.warning(
            "MindSpore's compile cache is on. It compares source files, not settings: empty its directory (%s) whenever"
            " a setting changes, or the run uses the old one; with it off, a process alone on a CPU keeps graphs by"
            " their settings",
            lookup(settings, "context.compile_cache_path") or os.environ.get("MS_COMPILER_CACHE_PATH") or ".",
        )


def register_all() -> None:
    """Register our classes, MindFormers' own names among them, and those of every family."""
    for module in ("trainer", "train_step", "optimizer", "callbacks"):
        importlib.import_module(f"ms_impl.plugin.{module}")
    importlib.import_module("ms_impl.plugin.family_classes").register_families()


def _report(settings: Settings) -> str:
    """The settings with what differs from the file they come from, and from what the family ships."""
    training = family_of(settings).training
    shown = {key: value for key, value in settings.items() if key not in ("register_path", "config_path")}
    return report(shown, read_yaml(Path(settings["config_path"])), read_yaml(locate(training)) if training else {})


def _schedule(device: str) -> None:
    """Bring msrun's workers together. The scheduler runs their command, too, and needs nothing else of it."""
    mindspore.set_device(device)
    init()
