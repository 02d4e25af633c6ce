"""``run_mindformer.py --check``: all settings of a YAML of any run mode judged, without a device and without a run.

The keys and values have been checked (``schema``). Here follow the files: the model's configuration, the vocabulary,
the weights' headers, and the data, read through. What is wrong is collected, so that one call finds it all.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ms_impl.cli.check import check_data
from ms_impl.cli.eval_settings import data_sets
from ms_impl.cli.plan import plan_settings
from ms_impl.cli.relations import cuts_model, ranks_of
from ms_impl.cli.schema import Settings, family_of, lookup
from ms_impl.cli.settings import adapt_to_cpu, check_weights, complete
from ms_impl.cli.training_plan import processor_options, read_plan
from ms_impl.data.batch_plan import BatchPlan, described
from ms_impl.data.check import Checker, Findings
from ms_impl.data.encoded_dataset import needs_of
from ms_impl.data.template import Template
from ms_impl.errors import InputError
from ms_impl.estimate.memory import memory
from ms_impl.estimate.parts import check as check_cut
from ms_impl.estimate.parts import model_parts, trained_names
from ms_impl.estimate.plan import Device, RunLayout, plan_of
from ms_impl.families import Family, Scope
from ms_impl.generate.config import GenerationConfig
from ms_impl.io.rules import MINDSPORE
from ms_impl.plugin.learning_rates import named_parameters

_CONFIG = "model.model_config.config_file"
_TOKENS = 512  # of a mean conversation, before the data have been read


def judge(settings: Settings) -> int:
    """Print what a run would be and do. Returns 2 if a setting or file is wrong, 1 if records are broken, else 0."""
    faults: list[str] = []
    print(f"{'run_mode':<14}{settings['run_mode']}")
    _tried(faults, lambda: complete(settings))
    ready = not faults
    if lookup(settings, "context.device_target") == "CPU":
        for line in adapt_to_cpu(settings):
            print(line)
    trains = settings["run_mode"] in ("train", "finetune")
    if os.path.exists(lookup(settings, _CONFIG) or ""):
        if trains:
            _tried(faults, lambda: _print_model(settings))
        _tried(faults, lambda: _print_weights(settings))
    broken = False
    if ready and trains:
        broken = bool(_tried(faults, lambda: _judge_training_data(settings)))
    elif ready:
        _tried(faults, lambda: _judge_eval_data(settings))
    sys.stdout.flush()
    for fault in dict.fromkeys(faults):
        print(f"error: {settings['config_path']}: {fault}", file=sys.stderr)
    return 2 if faults else 1 if broken else 0


def _tried(faults: list[str], step: Callable[[], Any]) -> Any:
    """What a step of the judgement returns, or None after an error, which is noted."""
    try:
        return step()
    except InputError as error:
        faults.append(str(error))
        return None


def _print_model(settings: Settings) -> None:
    """Parameters and memory. Raises InputError where nothing can be trained, or the model cannot be cut."""
    family, config_file = family_of(settings), Path(lookup(settings, _CONFIG))
    section = lookup(settings, "model.model_config")
    scope = family.scope(section)
    on_ascend = lookup(settings, "context.device_target") != "CPU"
    plan = plan_of(settings, scope, _TOKENS, flash=on_ascend)
    if family.estimate:
        _print_memory(family, config_file, plan, on_ascend)
        if cuts_model(settings):
            check_cut(family, config_file, plan)
    else:
        print_parameters(family, config_file, scope, bool(section.get("lora")))
    if grouped := settings.get("grouped_lr_schedule"):
        config = family.resolve("config").from_file(config_file)
        named_parameters(grouped, family, config, trained_names(family, config_file, plan))


def _print_memory(family: Family, config_file: Path, plan: RunLayout, on_ascend: bool) -> None:
    parts = model_parts(family, config_file, plan)
    numbers, trained = sum(part.numbers for part in parts), sum(part.trained for part in parts)
    print(f"{'parameters':<14}{numbers:,}, of which {trained:,} ({trained / numbers:.1%}) are trained")
    need = memory(parts, plan)
    print(f"{'memory':<14}{need.peak / 1e9:.2f} GB of a device, on paper ({need})")
    if on_ascend and need.peak > Device().memory:
        print(f"{'':<14}more than the {Device().memory / 1e9:.0f} GB that an Ascend 910B has for it: think of LoRA")


def print_parameters(family: Family, config_file: Path, scope: Scope, adapts: bool) -> None:
    """What the weight table tells of a family that is not described on paper."""
    config = family.resolve("config").from_file(config_file)
    shapes = family.resolve("weights").shapes(config, MINDSPORE)
    numbers = {name: math.prod(shape) for name, shape in shapes.items()}
    told = "an adapter trains none"
    if not adapts:
        told = f"{sum(numbers[name] for name in family.trained_names(numbers, scope, config)):,} are trained"
    print(f"{'parameters':<14}{sum(numbers.values()):,}, of which {told}")


def _print_weights(settings: Settings) -> None:
    path = settings.get("load_checkpoint")
    found = path and os.path.exists(path)
    if found:
        check_weights(settings, family_of(settings))
    none = "none: the model begins with random ones" if settings["run_mode"] == "train" else "load_checkpoint is empty"
    said = f"{path}, of which the headers fit" if found else f"not looked into: {path} is not here" if path else none
    print(f"{'weights':<14}{said}")


def _judge_training_data(settings: Settings) -> bool:
    """Whether a record is broken. Prints what is in the data, and the steps that they make."""
    if settings.get("do_eval"):
        _judge_eval_data(settings)
    read_plan(settings)
    checker, findings = check_data(settings)
    if not findings.faults:
        _print_steps(settings, checker, findings)
    return bool(findings.faults)


@dataclass(frozen=True)
class _Planned:
    """Of a data set what a batch plan asks for."""

    checker: Checker
    sizes: Mapping[str, int]
    needs: np.ndarray

    @property
    def need_names(self) -> tuple[str, ...]:
        return self.checker.template.needs

    def epoch(self, number: int, seed: int) -> np.ndarray:
        return self.checker.conversations.epoch(number, seed)  # type: ignore[attr-defined]  # a Mixture

    def record(self, index: int) -> str:
        return self.checker.conversations.name(index)


def _print_steps(settings: Settings, checker: Checker, findings: Findings) -> None:
    runner: Mapping[str, Any] = settings.get("runner_config") or {}
    ranks = lookup(settings, "parallel_config.data_parallel") or 1 if cuts_model(settings) else 1
    rows = runner.get("batch_size", 1) * runner.get("gradient_accumulation_steps", 1) * ranks
    template = checker.template
    planned = plan_settings(settings["train_dataset"], rows, runner.get("epochs", 1), settings.get("seed", 0), template)
    plan = BatchPlan(_Planned(checker, *needs_of(template, findings.outlines)), planned)
    devices = f"{ranks_of(settings)} ranks" if cuts_model(settings) else "one rank; divide by the number of ranks"
    print(f"\n{'steps':<14}{plan.total_steps:,} of {rows} rows, with {devices}")
    print(f"{'rows':<14}{described(plan, template.needs)}")


def _judge_eval_data(settings: Settings) -> None:
    """Read the data sets of ``eval_dataset`` as an evaluation does. Raises InputError for the first that is broken."""
    family = family_of(settings)
    config_file = Path(lookup(settings, _CONFIG))
    checkpoint = Path(settings.get("load_checkpoint") or config_file)
    beside = GenerationConfig.for_checkpoint(checkpoint, config_file, defaults=family.generation)
    generation = beside.changed(**lookup(settings, "model.generation_config") or {})
    asked = data_sets(settings["eval_dataset"]) if settings.get("eval_dataset") else []
    if not asked:
        return
    from ms_impl.evaluate.evaluation import Evaluation  # the slow import

    template = _template(settings, family)
    for data in asked:
        evaluation = Evaluation(data, template, generation)
        print(f"{data.name:<14}{len(evaluation.questions):,} records for {data.metric}")


def _template(settings: Settings, family: Family) -> Template:
    config = family.resolve("config").from_file(lookup(settings, _CONFIG))
    section = "processor" if settings.get("processor") else "train_dataset"
    places = (lookup(settings, "model.model_config.lora.adapter"), settings.get("load_checkpoint"))
    vocabulary = lookup(settings, f"{section}.tokenizer.vocab_file")
    return family.make_template(vocabulary, config, places, **processor_options(settings))
