"""Fine-tuning as the original's JSON configuration says: its keys as the settings of a run, and the run itself.

    python -m ms_impl.ovis2_5.train_config config.json [ARGUMENT of run_mindformer.py …]

writes ``<output_dir>/train_config.yaml``, says what has no counterpart here, and becomes ``run_mindformer.py`` with it:
one process or, with ``NPROC`` in the environment, so many workers of msrun.
"""

from __future__ import annotations

import math
import os
import shlex
import socket
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ms_impl.cli.annotations import annotation_files
from ms_impl.cli.kinds import Findings
from ms_impl.cli.main import command
from ms_impl.cli.schema import Settings, raise_all
from ms_impl.cli.settings import override
from ms_impl.cli.settings_report import report, save_report
from ms_impl.cli.yaml_reader import read_yaml
from ms_impl.data.files import Mixture
from ms_impl.errors import InputError, quote
from ms_impl.io.json_files import read_json
from ms_impl.ovis2_5.config import Ovis2_5Config
from ms_impl.ovis2_5.train_keys import KEYS, NO_COUNTERPART, SCHEDULES, with_defaults
from ms_impl.ovis2_5.train_modules import parse_train_modules
from ms_impl.resources import locate, resource

BASE = "configs/ovis2_5/finetune_ovis2_5_9b.yaml"  # has every key
SETTINGS_NAME = "train_config.yaml"

_TRANSFORM = "train_dataset.modal_to_text_transform"
_TEMPLATE = f"{_TRANSFORM}.model_transform_template"
_OPTIONS = (
    "multimodal_max_length", "text_max_length", "single_image_min_pixels", "single_image_max_pixels",
    "multiple_image_min_pixels", "multiple_image_max_pixels", "video_min_pixels", "video_max_pixels", "min_frames",
    "max_frames",
)  # fmt: skip
_FROZEN_BY = {
    "freeze_llm": ("llm",),
    "freeze_vision_tower": ("visual_tokenizer.vit", "visual_tokenizer.vit.last_block"),
}
_DEVICE = "/dev/davinci_manager"  # there where an Ascend device is


def read_config(path: Path) -> dict[str, Any]:
    """The keys of a JSON configuration with the defaults of the others. Raises InputError listing what is wrong."""
    given, findings = read_json(path), Findings()
    KEYS.check(given, "", findings)
    given = {key: value for key, value in given.items() if value is not None}
    model = given.get("model_path", given.get("ovis_pretrained_path"))
    if not model:
        findings.wrong("model_path", "is missing")
    if "data_path" not in given:
        findings.wrong("data_path", "is missing")
    try:
        raise_all(findings.faults)
        return {**with_defaults(given), "model_path": model}
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def notes(config: dict[str, Any]) -> list[str]:
    """A line for each key that has no counterpart here, with what stands for it."""
    asked = [key for key in NO_COUNTERPART if config.get(key) not in (None, False, "", "no", "none")]
    lines = [f"{key}: {quote(config[key])} has no counterpart: {NO_COUNTERPART[key]}" for key in asked]
    if config.get("ovis_pretrained_path", config["model_path"]) != config["model_path"]:
        lines.append(
            f"ovis_pretrained_path: {config['ovis_pretrained_path']} is not read: model_path is what is trained"
        )
    return lines


def settings_of(config: dict[str, Any], ranks: int = 1) -> Settings:
    """The settings of the run that a configuration asks for, on so many ranks. Raises InputError naming the key."""
    settings = read_yaml(locate(BASE))
    settings.pop("parallel_config")  # of the base's eight devices
    settings["model"]["model_config"].pop("config_file")
    override(settings, _general(config))
    override(settings, _data(config))
    override(settings, _steps(config, ranks))
    model = Ovis2_5Config.from_file(locate(config["model_path"]))
    if config.get("visual_vocab_size", model.visual_vocab_size) != model.visual_vocab_size:
        found = f"{config['visual_vocab_size']:,}, but {config['model_path']} has {model.visual_vocab_size:,}"
        raise InputError(f"visual_vocab_size: {found}")
    override(settings, _lora(config) if "lora_r" in config else _trained(config, model, settings["lr_schedule"]))
    return settings


def _general(config: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    half = "bfloat16" if config["bf16"] else "float16" if config["fp16"] else "float32"
    stored = config.get("torch_dtype", half if config["bf16"] else "float32")
    yield "seed", config["seed"]
    yield "output_dir", config["output_dir"]
    yield "load_checkpoint", config["model_path"]
    yield "resume_training", config.get("resume_from_checkpoint", False)
    yield "use_parallel", False
    yield "trainer.model_name", "ovis2_5"
    yield "model.model_config.compute_dtype", half
    yield "model.model_config.param_init_type", stored
    yield "recompute_config.recompute", config["gradient_checkpointing"]
    yield "context.device_target", config.get("device_target", "Ascend" if os.path.exists(_DEVICE) else "CPU")
    yield "parallel.enable_parallel_optimizer", bool(config.get("deepspeed"))
    if config["fp16"]:
        scale = {
            "type": "DynamicLossScaleUpdateCell",
            "loss_scale_value": 65536,
            "scale_factor": 2,
            "scale_window": 2000,
        }
        yield "runner_wrapper.scale_sense", scale


def _data(config: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    yield "train_dataset.data_loader.annotation_file", config["data_path"]
    yield "train_dataset.data_loader.shuffle", config["dataloader_shuffle"]
    yield "train_dataset.num_parallel_workers", max(1, config["dataloader_num_workers"])
    yield "train_dataset.packing", config["packing"]
    yield "train_dataset.group_by_length", config["group_by_length"]
    yield "train_dataset.drop_remainder", config["dataloader_drop_last"]
    yield f"{_TRANSFORM}.max_length", max(config["multimodal_max_length"], config["text_max_length"])
    yield f"{_TEMPLATE}.dataset_dir", config["image_folder"]
    for option in _OPTIONS:
        yield f"{_TEMPLATE}.{option}", config[option]


def _steps(config: dict[str, Any], ranks: int) -> Iterator[tuple[str, Any]]:
    epochs = config["num_train_epochs"]
    if epochs != int(epochs):
        raise InputError(f"num_train_epochs: {epochs:g} is not a whole number of epochs; give one")
    yield "runner_config.epochs", int(epochs)
    yield "runner_config.batch_size", config["per_device_train_batch_size"]
    yield "runner_config.gradient_accumulation_steps", config["gradient_accumulation_steps"]
    yield "runner_wrapper.max_grad_norm", config["max_grad_norm"]
    yield "optimizer.betas", [config["adam_beta1"], config["adam_beta2"]]
    yield "optimizer.eps", config["adam_epsilon"]
    yield "optimizer.weight_decay", config["weight_decay"]
    yield "lr_schedule", _schedule(config)
    log, save = (_whole_steps(config, key, ranks) for key in ("logging_steps", "save_steps"))
    saving = {"save_checkpoint_steps": save, "keep_checkpoint_max": config["save_total_limit"]}
    yield (
        "callbacks",
        [
            {"type": "MFLossMonitor", "per_print_times": log},
            {"type": "LossRecorder"},
            {"type": "CheckpointMonitor", **saving},
        ],
    )


def _schedule(config: dict[str, Any]) -> dict[str, Any]:
    """The schedule; steps of warm-up count before a share of them, as in Hugging Face's."""
    name, steps = config["lr_scheduler_type"], config["warmup_steps"]
    schedule = {"type": SCHEDULES[name], "learning_rate": config["learning_rate"]}
    if name == "constant":
        schedule["warmup_steps"] = 0
    elif steps >= 1:
        schedule["warmup_steps"] = steps
    else:
        schedule["warmup_ratio"] = steps or config["warmup_ratio"]
    if name.startswith("cosine"):
        schedule["lr_end"] = 0.0
    return {**schedule, "total_steps": -1}


def _whole_steps(config: dict[str, Any], key: str, ranks: int) -> int:
    """A number of steps that may be given as a share of all."""
    value = config[key]
    if value >= 1:
        return int(value)
    if config["packing"]:
        raise InputError(
            f"{key}: {value:g} is a share of the steps, which are known when rows are packed; give a number"
        )
    records = len(Mixture(annotation_files(config["data_path"])))
    rows = config["per_device_train_batch_size"] * config["gradient_accumulation_steps"] * ranks
    whole = records * config["num_train_epochs"] / rows
    steps = math.floor(whole) if config["dataloader_drop_last"] else math.ceil(whole)
    return max(1, int(value * steps))


def _trained(config: dict[str, Any], model: Ovis2_5Config, schedule: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """What is trained: the words without those that are frozen, and the learning rates that they have of their own."""
    for key in _FROZEN_BY:
        yield f"model.model_config.{key}", config[key]
    modules = parse_train_modules(config["train_modules"], model)
    frozen = [word for key, words in _FROZEN_BY.items() if config[key] for word in words]
    left = [module for module in modules if module.word not in frozen]
    if not left:
        raise InputError(f"train_modules: {config['train_modules']} is all frozen; nothing is left to train")
    if [module.word for module in modules] != ["all"]:
        yield "model.model_config.train_only", [module.word for module in left]
    own = [module for module in left if module.learning_rate is not None]
    if not own:
        return
    grouped = [{**schedule, "learning_rate": module.learning_rate, "params": [module.word]} for module in own]
    yield "grouped_lr_schedule", {"default": dict(schedule), "grouped": grouped}


def _lora(config: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """The adapter: on layers of these names in the whole model, as in the original, or in what is not frozen of it."""
    if config["train_modules"] != "all" or config["freeze_llm"]:
        raise InputError(
            "train_modules, freeze_llm: LoRA freezes all but its factors; leave them or the lora_ keys out"
        )
    names = config["lora_target_modules"]
    targets: Any = [name.strip() for name in names.split(",")] if isinstance(names, str) else names
    if config["freeze_vision_tower"] or config.get("apply_lora_to_vision") is False:
        targets = rf"llm\..*\.({'|'.join(targets)})"
    section = {"r": config["lora_r"], "lora_alpha": config["lora_alpha"], "lora_dropout": config["lora_dropout"]}
    yield "model.model_config.lora", {**section, "target_modules": targets}


def write_settings(path: Path, ranks: int = 1) -> Path:
    """Translate a configuration; prints what has no counterpart. Returns the YAML. Raises InputError."""
    config = read_config(path)
    for line in notes(config):
        print(line, flush=True)
    try:
        settings = settings_of(config, ranks)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    base, target = read_yaml(locate(BASE)), Path(config["output_dir"]) / SETTINGS_NAME
    target.parent.mkdir(parents=True, exist_ok=True)
    save_report(report(settings, base, base), target)
    print(f"{path} → {target}", flush=True)
    return target


def command_line(settings: Path, ranks: int, rest: Sequence[str]) -> list[str]:
    """What trains with a YAML: one process, or so many workers."""
    run = ["run_mindformer.py", "--config", str(settings), "--run_mode", "finetune", *rest]
    if ranks == 1:
        return [sys.executable, str(resource(run[0])), *run[1:]]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = os.environ.get("MASTER_PORT", str(probe.getsockname()[1]))
    task = shlex.join([*run, "--use_parallel", "True"])
    logs = str(settings.parent / "msrun_log")
    return ["bash", str(resource("scripts/msrun_launcher.sh")), task, str(ranks), port, logs, "True", "600"]


@command
def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; it becomes the training."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    if not given or given[0] in ("-h", "--help"):
        print(__doc__)
        return 0 if given else 2
    ranks = os.environ.get("NPROC", "1")
    if not ranks.isdecimal() or not 1 <= int(ranks) <= 4096:
        raise InputError(f"NPROC: expected the number of workers, found {quote(ranks)}")
    train = command_line(write_settings(Path(given[0]), int(ranks)), int(ranks), given[1:])
    os.execvp(train[0], train)


if __name__ == "__main__":
    sys.exit(main())
