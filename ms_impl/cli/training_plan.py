"""What a run does: read once from checked settings, and frozen. No framework is imported here.

``read_plan`` is the only reader, ``ms_impl.cli.mindformers_config`` the only writer of what MindFormers is told.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ms_impl.adapters.config import LoraConfig
from ms_impl.cli.eval_settings import data_sets
from ms_impl.cli.schema import Settings, family_of, lookup
from ms_impl.errors import InputError
from ms_impl.evaluate.data_set import DataSet
from ms_impl.families import Family
from ms_impl.io.dtypes import FLOAT_SPELLINGS, DType
from ms_impl.train import resume_check

MONITOR = "CheckpointMonitor"
SAVING_KEYS = {"save_checkpoint_steps": "every", "keep_checkpoint_max": "keep"}
INTERVALS = {"eval_step_interval": "step_interval", "eval_epoch_interval": "epoch_interval"}
WHOLE_MODES = (None, 0, "DATA_PARALLEL", "data_parallel")  # parallel modes in which every rank holds whole parameters

_LORA = "model.model_config.lora"


@dataclass(frozen=True)
class ModelFiles:
    """The model of a run, and where its files are.

    Attributes:
        weights: a checkpoint's directory or file; "": there are none yet.
        config_file: config.json.
        vocabulary: the tokenizer's file, or the first of them.
        generation: what differs from the generation_config.json beside the weights.
        whole: whether every rank holds whole parameters, and reads them itself.
    """

    family: Family
    weights: str
    config_file: Path
    vocabulary: Path
    generation: Mapping[str, Any]
    whole: bool


@dataclass(frozen=True)
class Saving:
    """How often a training run saves, and how many checkpoints it keeps."""

    every: int = 1000
    keep: int = 5


@dataclass(frozen=True)
class Monitoring:
    """Data sets that a training run is evaluated on, every so many steps or epochs."""

    data_sets: tuple[DataSet, ...]
    step_interval: int | None = None
    epoch_interval: int | None = None


@dataclass(frozen=True)
class TrainingPlan:
    """A training run.

    Attributes:
        rows: rows of a micro-batch of one rank.
        micro_batches: how many of them a rank takes in a step.
        resume: False, True (the newest checkpoint, if there is any), or the checkpoint's name.
        dtype: of the parameters, as the saved config.json tells it.
        trains_adapter: whether a LoRA adapter is trained in place of the model.
        kept: the settings that a checkpoint keeps, by dotted key.
    """

    files: ModelFiles
    seed: int
    epochs: int
    rows: int
    micro_batches: int
    resume: bool | str
    saving: Saving
    monitoring: Monitoring | None
    dtype: DType | None
    trains_adapter: bool
    kept: Mapping[str, Any]


@dataclass(frozen=True)
class AnsweringPlan:
    """A run that answers prompts, or the questions of data sets, with an adapter merged into the weights or none."""

    files: ModelFiles
    seed: int | None
    adapter: str | None
    batch_size: int
    data_sets: tuple[DataSet, ...] = ()
    template: Mapping[str, Any] = field(default_factory=dict)  # options, of the YAML's processor


def read_plan(settings: Settings) -> TrainingPlan | AnsweringPlan:
    """What checked and completed settings ask for. Raises InputError naming the key that is wrong or missing."""
    return _training(settings) if settings["run_mode"] in ("train", "finetune") else _answering(settings)


def _training(settings: Settings) -> TrainingPlan:
    runner = settings.get("runner_config") or {}
    section = lookup(settings, "model.model_config") or {}
    return TrainingPlan(
        files=_files(settings, "train_dataset"),
        seed=settings.get("seed") or 0,
        epochs=runner.get("epochs") or 1,
        rows=runner.get("batch_size") or 1,
        micro_batches=runner.get("gradient_accumulation_steps") or 1,
        resume=settings.get("resume_training") or False,
        saving=saving_of(settings),
        monitoring=_monitoring(settings),
        dtype=FLOAT_SPELLINGS.get(section.get("param_init_type") or ""),
        trains_adapter=bool(section.get("lora")),
        kept=resume_check.settings_of(settings),
    )


def _answering(settings: Settings) -> AnsweringPlan:
    files = _files(settings, "processor")
    return AnsweringPlan(
        files=files,
        seed=settings.get("seed"),
        adapter=answering_adapter(lookup(settings, _LORA), files.whole and files.weights),
        batch_size=settings.get("predict_batch_size") or 1,
        data_sets=tuple(data_sets(settings["eval_dataset"])) if settings["run_mode"] == "eval" else (),
        template=processor_options(settings),
    )


def processor_options(settings: Settings) -> dict[str, Any]:
    """The options of the template that ``processor`` says for answering."""
    section = lookup(settings, "processor.model_transform_template") or {}
    return {key: value for key, value in section.items() if key not in ("type", "auto_register")}


def _files(settings: Settings, section: str) -> ModelFiles:
    alone = not settings.get("use_parallel")
    return ModelFiles(
        family=family_of(settings),
        weights=settings.get("load_checkpoint") or "",
        config_file=Path(lookup(settings, "model.model_config.config_file") or ""),
        vocabulary=Path(lookup(settings, f"{section}.tokenizer.vocab_file") or ""),
        generation=dict(lookup(settings, "model.generation_config") or {}),
        whole=alone or lookup(settings, "parallel.parallel_mode") in WHOLE_MODES,
    )


def saving_of(settings: Settings) -> Saving:
    """The keys of ``CheckpointMonitor`` that mean something where ranks hold whole parameters."""
    monitors = [callback for callback in settings.get("callbacks") or () if callback["type"] == MONITOR]
    given = monitors[0] if monitors else {}
    return Saving(**{name: given[key] for key, name in SAVING_KEYS.items() if given.get(key) is not None})


def _monitoring(settings: Settings) -> Monitoring | None:
    """``do_eval``, MindFormers' key for evaluation while training, with its intervals and data sets."""
    if not settings.get("do_eval"):
        return None
    if settings.get("eval_dataset") is None:
        raise InputError("eval_dataset: is missing; do_eval needs it")
    intervals = {name: settings.get(key) for key, name in INTERVALS.items()}
    if not any(intervals.values()):
        raise InputError(f"do_eval: say how often: {' or '.join(INTERVALS)}")
    return Monitoring(tuple(data_sets(settings["eval_dataset"])), **intervals)


def answering_adapter(lora: Mapping[str, Any] | None, weights: str | bool) -> str | None:
    """The adapter that ``model.model_config.lora`` names, to be merged into the weights as they are read.

    Raises:
        InputError: it names no adapter, or other ranks or scalings than the adapter's, or there are no weights that
            are read here.
    """
    if not lora:
        return None
    if not lora.get("adapter"):
        raise InputError(f"{_LORA}: give adapter, the directory of a trained one; or leave lora out")
    if not weights:
        raise InputError(f"{_LORA}: an adapter is merged into the weights of load_checkpoint, read whole on each rank")
    path = Path(lora["adapter"])
    LoraConfig.read(path).check_scaling(LoraConfig.from_section(lora, _LORA), str(path))
    return str(path)
